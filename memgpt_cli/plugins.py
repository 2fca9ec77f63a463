"""What packages bring to memgpt, found by entry points: sources, metrics, stores and commands. Ours are registered the same way.

    [project.entry-points."memgpt.sources"]
    minutes = "my_package.minutes:SOURCE"

Nothing is imported before its name is asked for.
"""

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from memgpt_cli.errors import UsageError, did_you_mean

SOURCES, METRICS, STORES, COMMANDS = "memgpt.sources", "memgpt.metrics", "memgpt.stores", "memgpt.commands"


@functools.cache
def _found(group: str) -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=group)}
    ours = {name: point for name, point in found.items() if point.value.startswith("memgpt_cli.")}
    if not ours:
        raise UsageError(f"this installation of memgpt-cli is not whole ({group} is not registered): pip install it again")
    return {**found, **ours}  # nobody takes a name of ours


def names(group: str) -> tuple[str, ...]:
    """The names that are registered, ours first, each in the order they are written."""
    points = _found(group)
    return tuple(sorted(points, key=lambda name: (not points[name].value.startswith("memgpt_cli."), name)))


def load(group: str, name: str, what: str) -> Any:
    """What is registered under a name.

    Args:
        what: what is wrong with the name, to be read before "did you mean": "data.source is 'qaa', which is no source".

    Raises:
        UsageError: nothing is, or the package that registered it cannot be imported.
    """
    point = _found(group).get(name)
    if point is None:
        raise UsageError(f"{what}.{did_you_mean(name, names(group))}")
    try:
        return point.load()
    except Exception as error:  # another package's module may raise anything
        package = point.dist.name if point.dist else point.value
        raise UsageError(f"'{name}' of {package} cannot be loaded ({error}): pip install it again, or uninstall it") from error
