"""Table 1 of Michaelov & Bergen 2023 for any study: a row per outcome, t and corrected p.

`table1` gathers the numbers once; `as_frame`, `as_markdown` and `as_latex` write them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from downslope.errors import StudyError
from downslope.outcomes import Outcome, printed_titles
from downslope.panel import EFFECTS

_HEADINGS = {"parameters": "Parameters", "tokens": "Tokens", "interaction": "Interaction"}
_METHOD = "ols"  # the published table's; robust methods have tables of their own
_NONE = "–"


@dataclass(frozen=True)
class Row:
    """One outcome: its printed title and its effects, in the order of `EFFECTS`."""

    title: str
    outcome: Outcome
    effects: pd.DataFrame

    @property
    def n(self) -> int:
        return int(self.effects["n"].iloc[0])

    @property
    def expected(self) -> int:
        return int(self.effects["expected"].iloc[0])

    @property
    def status(self) -> str:
        return "; ".join(dict.fromkeys(self.effects["status"]))


@dataclass(frozen=True)
class Table1:
    """What the table shows, before it is written in any format."""

    title: str
    rows: tuple[Row, ...]
    level: float
    notes: tuple[str, ...]
    df: float | None  # residual degrees of freedom where all rows agree, else None


def table1(
    effects: pd.DataFrame,
    outcomes: Sequence[str],
    titles: Mapping[str, str],
    *,
    level: float,
    title: str,
    notes: Sequence[str] = (),
) -> Table1:
    """Gather Table 1 from the effects table: the paper's method for `outcomes`, in that order.

    `titles` maps tasks to printed names; `notes` are sentences to add below the table, such as
    one on the arithmetic of the scores. Raises StudyError where `effects` lacks an outcome.
    """
    parsed = [Outcome.parse(outcome) for outcome in outcomes]
    fitted = effects[effects["method"] == _METHOD]
    rows = tuple(
        Row(printed, outcome, _of_outcome(fitted, outcome))
        for outcome, printed in zip(parsed, printed_titles(parsed, titles), strict=True)
    )
    df = pd.concat([row.effects["df"] for row in rows]).dropna().unique()
    return Table1(
        title=title,
        rows=rows,
        level=level,
        notes=(*_notes(rows, fitted, level), *notes),
        df=float(df[0]) if len(df) == 1 else None,
    )


def _of_outcome(effects: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    of_task = (effects["task"] == outcome.task) & (effects["protocol"] == outcome.protocol)
    chosen = effects[of_task & (effects["metric"] == outcome.metric)]
    if sorted(chosen["effect"]) != sorted(EFFECTS):
        raise StudyError(
            f"{outcome} has the effects {list(chosen['effect'])}, expected {list(EFFECTS)}",
            where=f"effects, method {_METHOD}",
            remedy="Fit the effects anew; Table 1 shows the first family of config.yaml.",
        )
    return chosen.set_index("effect").loc[list(EFFECTS)]


def _notes(rows: Sequence[Row], effects: pd.DataFrame, level: float) -> list[str]:
    """What a reader needs to read the numbers, and every number that is not what it seems."""
    family = rows[0].effects["tests"].iloc[0]
    tests = int(effects.loc[effects["tests"] == family, "p"].notna().sum())
    notes = [
        "Ordinary least squares per task: z(value) on z(log10 parameters), z(log10 training "
        "tokens) and their product; every checkpoint counts as independent.",
        "With the interaction in the model, a main effect is the slope at the mean of the other "
        "predictor.",
        f"t has n - 4 degrees of freedom; p is corrected over the {tests} tests of the family "
        f"{family} (Benjamini-Hochberg); bold: p < {level:g}.",
    ]
    counts = {(row.n, row.expected) for row in rows}
    if len(counts) == 1:
        n, expected = counts.pop()
        notes.append(f"n = {n} of {expected} checkpoints.")
    else:
        shown = "; ".join(f"{row.title} {row.n} of {row.expected}" for row in rows)
        notes.append(f"Checkpoints per task: {shown}.")
    notes += [f"{row.title}: {row.status}." for row in rows if row.status != "ok"]
    return notes


def version_notes(tables: Sequence[pd.DataFrame]) -> list[str]:
    """A sentence where checkpoints were scored with several versions of torch or transformers.

    Each of `tables` has the column ckpt and one for each package, for a task of Table 1.
    """
    if not tables:
        return []
    rows = pd.concat(tables).drop_duplicates()
    packages = [column for column in rows.columns if column != "ckpt"]
    counts = Counter(rows[packages].itertuples(index=False, name=None))
    if len(counts) < 2:
        return []
    shown = [
        ", ".join(
            f"{name} {version or 'unknown'}" for name, version in zip(packages, of, strict=True)
        )
        + f" ({count} checkpoints)"
        for of, count in sorted(counts.items())
    ]
    return [f"Scored with several versions: {'; '.join(shown)}. Last digits may differ."]


def as_frame(table: Table1) -> pd.DataFrame:
    """The table with full values: a row per outcome, estimate, se, t, p and all corrections."""
    records = []
    for row in table.rows:
        record: dict[str, object] = {"title": row.title, **row.outcome._asdict()}
        for effect, values in row.effects.iterrows():
            for column, name in (("estimate", "estimate"), ("se", "se"), ("statistic", "t")):
                record[f"{effect}_{name}"] = values[column]
            for column in ("p", "q", "q_by", "p_holm"):
                record[f"{effect}_{column}"] = values[column]
        record |= {"df": row.effects["df"].iloc[0], "n": row.n, "expected": row.expected}
        records.append({**record, "status": row.status})
    return pd.DataFrame(records)


def as_markdown(table: Table1) -> str:
    """The table as Markdown, numbers as the paper prints them."""
    heads = [f"{_HEADINGS[effect]} {_t_head(table, '*t*')} | *p*" for effect in EFFECTS]
    lines = [
        f"**Table 1.** {_markdown(table.title)}",
        "",
        f"| Task | {' | '.join(heads)} |",
        "| :--- |" + " ---: | ---: |" * len(EFFECTS),
    ]
    for row in table.rows:
        cells = []
        for _, effect in row.effects.iterrows():
            bold = "**" if effect["q"] < table.level else ""
            t, p = _t(effect, table.df), _p(effect["q"])
            cells += [f"{bold}{t}{bold}", f"{bold}{p}{bold}"]
        lines.append(f"| {_markdown(row.title)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {_markdown(note)}" for note in table.notes), ""])


def as_latex(table: Table1) -> str:
    """The table as a LaTeX `table` (packages: booktabs), numbers as the paper prints them."""
    spans = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_HEADINGS[effect]}}}" for effect in EFFECTS)
    rules = " ".join(rf"\cmidrule(lr){{{left}-{left + 1}}}" for left in (2, 4, 6))
    lines = [
        "% Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}. {' '.join(_latex(note) for note in table.notes)}}}",
        r"  \label{tab:effects}",
        r"  \begin{tabular}{l rr rr rr}",
        r"    \toprule",
        rf"    & {spans} \\",
        f"    {rules}",
        "    Task" + f" & {_t_head(table, '$t$')} & $p$" * len(EFFECTS) + r" \\",
        r"    \midrule",
    ]
    for row in table.rows:
        cells = []
        for _, effect in row.effects.iterrows():
            pair = (_t(effect, table.df), _p(effect["q"]))
            cells += [_latex_number(text, effect["q"] < table.level) for text in pair]
        lines.append(rf"    {_latex(row.title)} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _t_head(table: Table1, t: str) -> str:
    return t if table.df is None else f"{t}({table.df:g})"


def _t(effect: pd.Series, common_df: float | None) -> str:
    """t with two decimals; with its own degrees of freedom where rows differ in them."""
    if np.isnan(effect["statistic"]):
        return _NONE
    text = f"{effect['statistic']:.2f}"
    text = "0.00" if text == "-0.00" else text
    return text if common_df is not None else f"({effect['df']:g}) {text}"


def _p(p: float) -> str:
    """p with three decimals, or <0.001, as the paper prints it."""
    if np.isnan(p):
        return _NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _markdown(text: str) -> str:
    for mark in ("\\", "|", "*", "_", "`", "<"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _latex(text: str) -> str:
    """Text for LaTeX, its special characters escaped one by one."""
    special = {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": "$<$",
        ">": "$>$",
        "–": "--",
    }
    return "".join(special.get(mark, mark) for mark in text)


def _latex_number(text: str, bold: bool) -> str:
    if text == _NONE:
        return "--"
    return rf"$\mathbf{{{text}}}$" if bold else f"${text}$"
