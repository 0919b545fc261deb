"""What lm-evaluation-harness wrote, in both of its generations, as plain objects.

    0.3   one JSON file a run, named by its user: results {task: {acc, acc_stderr, ...}}, versions,
          config {model_args, num_fewshot, limit, ...}
    0.4   {model}/results_{date}.json: results {task: {"acc,none", "acc_stderr,none", alias, ...}},
          groups, group_subtasks, configs, n-shot, n-samples, higher_is_better, config; with
          samples logged, {model}/samples_{task}_{date}.jsonl beside it. All steps of a model
          share one folder; nothing but the content tells them apart.

The forks that published studies used are read too: GPT-NeoX, where `model_args` is a mapping of
hundreds of settings, and BigScience, whose rows lie under `table_results`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downslope.errors import StudyError

# The arguments that say which model it was, in the order in which a model's text begins with them.
TELLING = ("pretrained", "model", "path", "load", "peft", "revision", "iteration")
_COUNTS = frozenset({"samples", "sample_len"})  # numbers in a task's row that are no metrics
_MARKS = ("config", "versions", "configs", "model_args", "model_name", "model", "table_results")
_STDERR = "_stderr"


@dataclass(frozen=True)
class Entry:
    """What one file says of one task.

    values   metric -> (value, standard error); NaN where the file has no number. A metric of 0.4
             keeps the name of its filter (`exact_match,strict-match`) unless that is `none`
    n        items that were evaluated, None where the file does not say
    shots    examples in the prompt, None where the file does not say
    version  the harness's version of the task, `1` for 1, 1.0 and "1.0"; empty: not said
    limit    the `--limit` of the run, empty without one
    higher   metric -> whether higher is better, as far as the file says
    """

    values: Mapping[str, tuple[float, float]]
    n: int | None
    shots: int | None
    version: str
    limit: str
    higher: Mapping[str, bool]
    delimiter: str = " "


@dataclass(frozen=True)
class HarnessFile:
    """One file of results.

    name        its path below the folder that was searched
    model       the text that patterns are matched against: the arguments of TELLING first, then
                the others; the model's name where there are no arguments, else the file's name
    shown       the beginning of that text, short enough to print
    parameters  what the harness counted in the model (late 0.4), None elsewhere
    entries     task -> Entry, aggregates of several tasks (`groups`) among them
    groups      names of the entries that are aggregates
    """

    path: Path
    name: str
    model: str
    shown: str
    parameters: int | None
    entries: Mapping[str, Entry]
    groups: frozenset[str]

    def samples(self, task: str) -> Path | None:
        """The file of this run's logged samples of a task, where there is one."""
        date = self.path.stem.rpartition("_")[2]
        found = self.path.with_name(f"samples_{task}_{date}.jsonl")
        return found if found.is_file() else None


def list_files(folder: Path, pattern: str = "**/*.json") -> list[Path]:
    """The files below `folder` that match the glob, sorted by path.

    Folders whose names end in .json are no files: 0.4 makes them where `--output_path` ends so.
    """
    if not folder.is_dir():
        raise StudyError(
            "is no folder",
            where=str(folder),
            remedy="Write the folder with the harness's output under harness.folder.",
        )
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def input_files(folder: Path, pattern: str = "**/*.json") -> list[str]:
    """The files of results and of samples that an import hangs on; none where there is no folder,
    which the import itself refuses.
    """
    if not folder.is_dir():
        return []
    samples = sorted(path for path in folder.glob("**/samples_*.jsonl") if path.is_file())
    return [str(path) for path in [*list_files(folder, pattern), *samples]]


def read_file(path: Path, folder: Path) -> HarnessFile | None:
    """One file of results, or None where a JSON file is something else.

    Raises StudyError where the file is not JSON, as when the run that wrote it was killed.
    """
    try:
        data = json.loads(path.read_bytes())  # NaN and Infinity are read, as the harness writes
    except (ValueError, RecursionError) as error:
        raise StudyError(
            f"is not JSON ({error})",
            where=str(path),
            remedy="Evaluate this model again, or move the file out of the folder.",
        ) from None
    rows = _rows(data)
    if not rows:
        return None
    config = data["config"] if isinstance(data.get("config"), dict) else data
    name = path.relative_to(folder).as_posix()
    model, shown = _model(data, config, name)
    counted = config.get("model_num_parameters")
    aggregates = set(_mapping(data, "groups"))
    aggregates |= {group for group, parts in _mapping(data, "group_subtasks").items() if parts}
    return HarnessFile(
        path=path,
        name=name,
        model=model,
        shown=shown,
        parameters=counted if isinstance(counted, int) and counted > 0 else None,
        entries={task: _entry(task, row, data, config) for task, row in rows.items()},
        groups=frozenset(aggregates & set(rows)),
    )


def read_folder(folder: Path, pattern: str) -> tuple[list[HarnessFile], list[Path]]:
    """All files of results below a folder, and the JSON files that are something else.

    Raises StudyError where there are no results at all.
    """
    found, others = [], []
    for path in list_files(folder, pattern):
        file = read_file(path, folder)
        if file is None:
            others.append(path)
        else:
            found.append(file)
    if not found:
        raise StudyError(
            f"no file that matches {pattern} holds results of lm-evaluation-harness "
            f"({len(others)} other JSON files)",
            where=str(folder),
            remedy="Check harness.folder and harness.files.",
        )
    return found, others


def _rows(data: Any) -> dict[str, dict[str, Any]]:
    """task -> its row, empty where this is not the harness's output."""
    if not isinstance(data, dict) or not any(mark in data for mark in _MARKS):
        return {}
    for key in ("results", "table_results"):
        rows = data.get(key)
        if isinstance(rows, dict):
            return {str(task): row for task, row in rows.items() if isinstance(row, dict)}
    return {}


def _entry(
    task: str, row: Mapping[str, Any], data: Mapping[str, Any], config: Mapping[str, Any]
) -> Entry:
    values = {}
    for key, value in row.items():
        metric, _, rest = key.partition(",")
        if metric.endswith(_STDERR) or metric in _COUNTS or not _is_number(value):
            continue
        error = row.get(f"{metric}{_STDERR}" + (f",{rest}" if rest else ""), math.nan)
        name = metric if rest in ("", "none") else key
        values[name] = (float(value), float(error) if _is_number(error) else math.nan)
    own = _mapping(data.get("configs"), task)
    shots = _mapping(data, "n-shot").get(task, own.get("num_fewshot", config.get("num_fewshot")))
    count = _mapping(_mapping(data, "n-samples"), task).get("effective", row.get("sample_len"))
    higher = _mapping(_mapping(data, "higher_is_better"), task)
    limit = config.get("limit")
    return Entry(
        values=values,
        n=count if isinstance(count, int) and count > 0 else None,
        shots=int(shots) if str(shots).isdigit() else None,
        version=_version(_mapping(data, "versions").get(task)),
        limit="" if limit is None else f"{limit:g}" if _is_number(limit) else str(limit),
        higher={metric: better for metric, better in higher.items() if isinstance(better, bool)},
        delimiter=str(own.get("target_delimiter", " ")),
    )


def _model(data: Mapping[str, Any], config: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A model's text, and the beginning of it that is shown to people."""
    arguments = _arguments(config.get("model_args"))
    if not arguments:
        named = data.get("model_name") or (data.get("model") if config is data else None)
        text = named if isinstance(named, str) and named else name
        return text, text
    revision = config.get("model_revision")
    if isinstance(revision, str) and revision:
        arguments.setdefault("revision", revision)
    told = [f"{key}={arguments[key]}" for key in TELLING if key in arguments]
    rest = [f"{key}={value}" for key, value in arguments.items() if key not in TELLING]
    rest += [f"{key}={value}" for key, value in _mapping(config, "downslope").items()]
    text = " ".join(",".join(told + rest).split())  # one line, so that `.*` reaches its end
    return text, ",".join(told) or text[:200]


def _arguments(given: Any) -> dict[str, str]:
    """Model arguments as texts by name, from `a=1,b=2` or from a mapping."""
    if isinstance(given, Mapping):
        plain = {k: v for k, v in given.items() if isinstance(v, str | int | float)}
        return {str(key): str(value) for key, value in plain.items()}
    found: dict[str, str] = {}
    last = ""
    for part in given.split(",") if isinstance(given, str) else ():
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            found[last] = value.strip()
        elif last:  # a value with a comma of its own
            found[last] += f",{part}"
    return found


def _mapping(data: Any, key: str) -> Mapping[str, Any]:
    found = data.get(key) if isinstance(data, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _version(value: Any) -> str:
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return "" if value in (None, "N/A") else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
