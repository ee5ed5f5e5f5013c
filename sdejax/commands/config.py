"""Config files and their overrides on the command line."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from sdejax.config import ADDED, completed, default_config, keys_of
from sdejax.tables import near
from sdejax.untrusted import read_json


def read_config(argument: str, overrides: list[str]) -> ConfigDict:
    """The config of a file, with overrides from the command line.

    Args:
        argument: "file.py" or "file.py:argument of get_config", or the config.json of a workdir.
        overrides: ["--config.a.b=value", ...].

    Returns:
        The locked config.

    Raises:
        ValueError: for a file without ``get_config``, an unknown key or a value of another type.
        FileNotFoundError: where there is no such file.
    """
    name, _, extra = argument.partition(":")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {name!r}; expected a Python file")
    if path.suffix == ".json":
        return overridden(_stored(path), overrides)
    spec = importlib.util.spec_from_file_location(f"sdejax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {name!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {name!r} has no function get_config() -> ConfigDict")
    arguments = [extra] if extra else []
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        raise ValueError(f"--config: get_config of {name!r} and {arguments}: {error}") from error
    return overridden(module.get_config(*arguments), overrides)


def overridden(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """A config with overrides from the command line.

    Args:
        config: as ``default_config``.
        overrides: ["--config.a.b=value", ...].

    Returns:
        The locked config.

    Raises:
        ValueError: for an unknown key or a value of another type.
    """
    config = _overridable(config)
    # Of one key the last word counts; flags of tuples would add to each other.
    overrides = list({word.partition("=")[0]: word for word in overrides}.values())
    overrides = _data_options(config, overrides)
    for override in overrides:
        key = override.partition("=")[0].removeprefix("--config.")
        known = keys_of(config)
        if not override.startswith("--config.") or "=" not in override:
            raise ValueError(f"unknown argument {override!r}; overrides are --config.KEY=VALUE")
        if key not in known:
            raise ValueError(f"--config.{key}: no such key{near(key, known)}")
    values, words = flags.FlagValues(), ["sdejax", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
        values(words)
    except flags.Error as error:
        raise ValueError(str(error)) from error
    return values.config


def _stored(path: Path) -> ConfigDict:
    """A config as a run left it; lists are the tuples of the config that it was."""
    config = completed(_require_keys(read_json(path), path))

    def tuples(value):
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return ConfigDict(tuples(config))


def _require_keys(config: object, where: Path) -> dict:
    """Refuses what is no config of a run."""
    known = default_config().to_dict()
    found = config if isinstance(config, dict) else {}
    if missing := sorted(set(known) - set(ADDED) - set(found)):
        raise ValueError(
            f"--config: {str(where)!r} is no config.json of a run, it lacks {missing[:5]}"
        )
    return found


def _data_options(config: ConfigDict, overrides: list[str]) -> list[str]:
    """Sets ``data.options``, whose keys depend on the source; gives the other overrides back.

    Another source starts without the options of the file's own.
    """
    prefix, rest = "--config.data.options.", []
    if any(override.startswith("--config.data.source=") for override in overrides):
        config.data.options = ConfigDict()
    for override in overrides:
        key, sign, value = override.removeprefix(prefix).partition("=")
        if not override.startswith(prefix) or not sign:
            rest.append(override)
            continue
        try:
            config.data.options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            config.data.options[key] = value  # a word
    return rest


def _overridable(config: ConfigDict) -> ConfigDict:
    """Entries that are None may be given any value."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _overridable(value)
        elif value is None:
            config[key] = config_dict.placeholder(object)
    return config
