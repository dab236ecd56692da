"""Loads the settings from environment variables, explains errors in them, and shows them as a table.

Guarantees: `load` either returns settings without conflicts or raises one ConfigurationError that
names every wrong variable and what to do about it; no text shows a secret. `docs/settings.md` is
`markdown()`; `make check` compares them.
"""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from eco2.errors import ConfigurationError
from eco2.remote import clean, shown
from eco2.settings import (
    GROUPS,
    MORE,
    OTHER,
    BudgetSettings,
    ProviderSettings,
    Settings,
    size_for_scans,
    warnings,
)
from eco2.variables import of_services


def load(given: Mapping[str, str | int] | None = None) -> Settings:
    """Loads the settings: `given` by field, else from the environment. Raises `ConfigurationError`."""
    wrong = unknown(os.environ)
    try:
        settings = Settings(**(given or {}))  # type: ignore[arg-type]  # checked by the model
    except ValidationError as error:
        wrong += _explain(error)
    except SettingsError:  # its text may quote a key
        wrong.append(f"ECO2_PROVIDERS or ECO2_BUDGETS is not valid JSON. {_PROVIDER_ADVICE}")
    else:
        if not wrong:
            return settings
    raise ConfigurationError("\n".join(["Wrong settings:", *wrong])) from None


def unknown(environment: Mapping[str, str]) -> list[str]:
    """Lists the variables with our prefix that are no settings, each with the most similar setting.

    Ignores `ECO2_TEST_…`, which the tests read, and the variables that Kubernetes adds for Services.
    """
    names = {variable(key, field) for key, field in Settings.model_fields.items()}
    foreign = of_services(environment)
    errors = []
    for name in sorted(environment):
        upper = name.upper()
        if upper == "ECO2_PREFIX" and not clean(environment[name]):
            errors.append("ECO2_PREFIX is empty: name this installation, or unset it for the default (eco2).")
        if upper == "ECO2_AMQP_URL" and environment[name] and not clean(environment[name]):
            errors.append(
                "ECO2_AMQP_URL is blank: give RabbitMQ's URL, or unset it for the broker in memory."
            )
        if not upper.startswith("ECO2_") or upper in names or name in foreign:
            continue
        if upper.startswith(("ECO2_TEST_", "ECO2_PROVIDERS__", "ECO2_BUDGETS__")):
            continue
        near = difflib.get_close_matches(upper, sorted(names - {"ECO2_PROVIDERS", "ECO2_BUDGETS"}), n=1)
        if upper.startswith(("ECO2_PROVIDER", "ECO2_BUDGET")):
            errors.append(f"unknown {name}. {_PROVIDER_ADVICE}")
        elif near:
            errors.append(f"unknown {name}; did you mean {near[0]}? Rename or unset it.")
        else:
            errors.append(f"unknown {name}; unset it. `eco2 settings` lists all settings.")
    return errors


def _explain(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ")
        location = tuple(map(str, problem["loc"]))
        if not location:
            lines += message.split("\n")
        elif (group := NESTED.get(location[0])) is not None:
            lines.append(_explain_nested(group, location, problem["type"], message, problem["input"]))
        else:
            name, field = _field(location[0])
            given = "" if is_secret(name, field) else f"={shown(str(problem['input']))}"
            lines.append(f"{name}{given}: {message}. {_advice(field)}")
    return lines


NESTED: Mapping[str, type[BaseModel]] = {"providers": ProviderSettings, "budgets": BudgetSettings}
"""The settings that have names of the operator's choice, and variables of their own each."""

_PROVIDER_ADVICE = (
    "Give each provider its own variables, ECO2_PROVIDERS__NAME__API_KEY and so on, and each budget "
    "ECO2_BUDGETS__NAME__RPM, with two underscores on both sides of its name."
)


def _explain_nested(
    group: type[BaseModel], location: tuple[str, ...], kind: str, message: str, value: object
) -> str:
    """Explains an error in the variables of one provider or budget.

    A value is shown only if it cannot be a secret: a key may stand under any wrong name.
    """
    of, what = location[0], location[0].removesuffix("s")
    match location[1:]:
        case (name, key, *_) if (field := group.model_fields.get(key)) is not None:
            variable = nested_variable(of, name, key)
            if kind == "missing":
                return f"{variable} is missing: set it, or unset all of {nested_variable(of, name, '')}…"
            given = "" if is_secret(variable, field) else f"={shown(str(value))}"
            return f"{variable}{given}: {message}. {_advice(field)}"
        case (name, key, *_):
            close = difflib.get_close_matches(key, list(group.model_fields), n=1)
            meant = f"did you mean {nested_variable(of, name, close[0])}? " if close else ""
            names = ", ".join(name.upper() for name in group.model_fields)
            return f"{nested_variable(of, name, key)} is no setting: {meant}A {what}'s settings are {names}."
        case (name,):
            return f"ECO2_{of.upper()}__{name.upper()} is no setting. {_PROVIDER_ADVICE}"
        case _:
            return f"ECO2_{of.upper()}: {message}. {_PROVIDER_ADVICE}"


def _advice(field: FieldInfo) -> str:
    if field.is_required():
        return "Correct it."
    return f"Correct it, or unset it for the default ({default_text(field)})."


def _field(first: str) -> tuple[str, FieldInfo]:
    """Returns the variable and the field for an error's location, which is a field's name or alias."""
    for key, field in Settings.model_fields.items():
        if first in (key, field.validation_alias):
            return variable(key, field), field
    raise LookupError(first)


def variable(key: str, field: FieldInfo) -> str:
    """Returns the variable of a setting."""
    return field.validation_alias if isinstance(field.validation_alias, str) else f"ECO2_{key.upper()}"


def nested_variable(of: str, name: str, key: str) -> str:
    """Returns the variable of a setting of one of the `providers`, or of the `budgets`."""
    return f"ECO2_{of.upper()}__{name.upper()}__{key.upper()}"


def is_secret(name: str, field: FieldInfo) -> bool:
    """Returns whether the value must not be shown."""
    return not field.repr or name.endswith("_KEY")


def default_text(field: FieldInfo) -> str:
    """Returns the default as text."""
    if metadata(field)["computed"]:
        return "computed"
    if field.is_required():
        return "required"
    if field.default in (None, "", {}):
        return "unset"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def overview(settings: Settings) -> list[str]:
    """Returns every setting with its value, unit and meaning, then the warnings. Secrets are not shown."""
    lines = []
    for key, field in Settings.model_fields.items():
        name, value = variable(key, field), getattr(settings, key)
        hidden = value is not None and is_secret(name, field)
        value = ", ".join(value) if isinstance(value, dict) else value
        unit = metadata(field)["unit"]
        text = f"{shown(str(value))}{' ' + unit if unit else ''}"
        given = "(set)" if hidden else "–" if value in (None, "") else text
        note = "" if getattr(settings, key) == field.default else f" (default {default_text(field)})"
        if metadata(field)["computed"]:
            computed = getattr(size_for_scans(settings.rpm, settings.tpm), key)
            note = " (computed)" if value == computed else f" (computed: {computed})"
        lines.append(f"{name} = {given}{note}\n    {metadata(field)['text']}")
    return lines + warnings(settings)


def markdown() -> str:
    """Returns the text of docs/settings.md: all settings by group, in the order of the fields."""
    parts = [
        "# Settings",
        "",
        "Generated by `make fix` from `eco2/settings.py`. Each setting is an environment variable.",
        "A process with conflicting settings does not start, and its error names what to change.",
        "`--host` and `--port` override the variables. Unknown `ECO2_…` variables are errors.",
    ]
    for group in GROUPS:
        parts += ["", f"## {group}", "", "| Variable | Default | Unit | What it does |", "|---|---|---|---|"]
        parts += [
            table_row(variable(key, field), field)
            for key, field in Settings.model_fields.items()
            if metadata(field)["group"] == group
        ]
    for title, of in ((MORE, "providers"), (OTHER, "budgets")):
        parts += ["", f"## {title}", "", "Choose a name for each, here `NAME`: letters and digits.", ""]
        parts += ["| Variable | Default | Unit | What it does |", "|---|---|---|---|"]
        parts += [
            table_row(nested_variable(of, "name", key), field)
            for key, field in NESTED[of].model_fields.items()
        ]
    return "\n".join(parts) + "\n"


def table_row(variable: str, field: FieldInfo) -> str:
    """Returns the row of docs/settings.md for one variable."""
    default = default_text(field)
    cell = {"unset": "–", "computed": default, "required": default}.get(default, f"`{default}`")
    return f"| `{variable}` | {cell} | {metadata(field)['unit'] or '–'} | {metadata(field)['text']} |"


def metadata(field: FieldInfo) -> dict[str, Any]:
    """Returns a field's group, unit and text (its docstring), and whether its default is computed."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return {**extra, "text": " ".join((field.description or "").split())}
