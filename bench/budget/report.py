"""Writes docs/budget.md's table from the JSON, and the summary for the terminal."""

from typing import Any

from bench.record import FOLDER, Results

PAGE = FOLDER.parent.parent / "docs" / "budget.md"
PICTURE = "![Calls a second, and the sliding minute against the limit](../bench/results/budget.png)"
BEGIN, END = "<!-- figures -->", "<!-- end -->"


def kept(facts: dict[str, Any]) -> bool:
    return all(check["kept"] for check in facts["checks"])


def checks(facts: dict[str, Any]) -> str:
    """Returns the measured values beside their targets."""
    lines = [
        f"  {'ok  ' if check['kept'] else 'MISS'} {check['what']}: {check['value']:.4g} ({check['target']})"
        for check in facts["checks"]
    ]
    return "\n".join(lines)


def write(results: Results) -> None:
    """Replaces the figures of the page; its text stays."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(results)}\n\n{PICTURE}\n{END}{tail}", encoding="utf-8")


def table(results: Results) -> str:
    """Returns every case with its conditions."""
    rows = [_row(name, case) for name, case in results["cases"].items()]
    head = (
        "| Case | Limit a minute | offered | used | fullest minute, requests · tokens | 429 "
        "| jobs done · not done · moved | repeated calls | p95 s: loaded · unloaded | ÷ | targets |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows, "", *_grants(results), *_surroundings(results)])


def _row(name: str, case: dict[str, Any]) -> str:
    given, jobs, seconds = case["parameters"], case["jobs"], case["seconds"]
    binding = given["binding"]
    limit = given["rpm"] if binding == "requests" else given["tpm"]
    ratio = seconds["paired_p95"] / seconds["unloaded_p95"] if seconds["paired"] else None
    missed = [check["what"] for check in case["checks"] if not check["kept"]]
    return (
        f"| `{name}`: {given['title']} | {limit:,} {binding} | {case['offered']:.0%} "
        f"| {case['utilisation'][binding]:.2%} "
        f"| {case['fullest']['requests']:.2%} · {case['fullest']['tokens']:.2%} | {case['rejected']} "
        f"| {jobs['completed']} · {jobs['not_done']} · {jobs['changed_hands']} | {case['repeated_calls']} "
        f"| {_seconds(seconds['paired_p95'])} · {_seconds(seconds['unloaded_p95'])} "
        f"| {_seconds(ratio, 2)} | {'; '.join(missed) + ' missed' if missed else 'kept'} |"
    )


def _seconds(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _grants(results: Results) -> list[str]:
    return [
        f"Grants in `{name}`: {grants['asked']:.0f}, half of them within {grants['p50_up_to'] * 1000:g} ms, "
        f"99 % within {grants['p99_up_to'] * 1000:g} ms (bounds of a histogram).\n"
        for name, case in results["cases"].items()
        if (grants := case.get("grants"))
    ]


def _surroundings(results: Results) -> list[str]:
    """Returns the conditions, once for all cases that share them."""
    lines: dict[str, list[str]] = {}
    for name, case in results["cases"].items():
        where, given = case["surroundings"], case["parameters"]
        versions = ", ".join(f"{key} {value}" for key, value in where["versions"].items())
        machine, changed = where["machine"], where["changed_files"]
        line = (
            f"commit {where['commit'][:10]}{f' with {changed} changed files' if changed else ''}; "
            f"{given['load_seconds']:g} s of load, {given['warm_seconds']:g} s not judged; {versions}; "
            f"{machine['system']}, {machine['cores']} cores, {machine['memory_gb']} GB"
        )
        lines.setdefault(line, []).append(name)
    return [f"Measured ({', '.join(names)}): {line}." for line, names in lines.items()]
