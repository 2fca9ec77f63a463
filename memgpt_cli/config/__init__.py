"""Configuration: YAML composed by Hydra, checked against frozen dataclasses, one line per mistake."""

from memgpt_cli.config.compose import compose, override
from memgpt_cli.config.places import GROUPS, choices, conf_dir, home
from memgpt_cli.config.settings import (
    AugmentConfig,
    ChatConfig,
    CleanConfig,
    Config,
    DataConfig,
    EvalConfig,
    GenerateConfig,
    LimitConfig,
    OptimConfig,
    RenameConfig,
    StoreConfig,
    TokenizerConfig,
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
    "DataConfig",
    "EvalConfig",
    "GenerateConfig",
    "LimitConfig",
    "OptimConfig",
    "RenameConfig",
    "StoreConfig",
    "TokenizerConfig",
    "TrainerConfig",
    "all_keys",
    "build",
    "choices",
    "compose",
    "conf_dir",
    "home",
    "override",
    "to_dict",
]
