"""Configuration: YAML composed by Hydra, checked against frozen dataclasses, one line per mistake."""

from memgpt_cli.config.compose import compose, override
from memgpt_cli.config.data import (
    AugmentConfig,
    ChatConfig,
    CleanConfig,
    CorpusConfig,
    DataConfig,
    LimitConfig,
    RenameConfig,
    TokenizerConfig,
)
from memgpt_cli.config.places import GROUPS, bundled_folder, choices, conf_dir, home, user_name
from memgpt_cli.config.settings import (
    Config,
    EvalConfig,
    GenerateConfig,
    InferenceConfig,
    OptimConfig,
    StoreConfig,
    TrainerConfig,
    all_keys,
    build,
    to_dict,
)

__all__ = [
    "GROUPS",
    "AugmentConfig",
    "ChatConfig",
    "CleanConfig",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "EvalConfig",
    "GenerateConfig",
    "InferenceConfig",
    "LimitConfig",
    "OptimConfig",
    "RenameConfig",
    "StoreConfig",
    "TokenizerConfig",
    "TrainerConfig",
    "all_keys",
    "build",
    "bundled_folder",
    "choices",
    "compose",
    "conf_dir",
    "home",
    "override",
    "to_dict",
    "user_name",
]
