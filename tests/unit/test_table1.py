"""Table 1 as the paper prints it: rounding, bold, what is missing, and escapes."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from downslope.errors import StudyError
from downslope.table1 import as_frame, as_latex, as_markdown, table1, version_notes

TITLES = {"memo-trap": "Memo Trap", "neqa": "NeQA", "truthfulqa": "TruthfulQA"}
OUTCOMES = ["memo-trap/p/accuracy", "neqa/p/accuracy", "truthfulqa/p/mc1", "truthfulqa/p/mc2"]
# t and corrected p per effect.
NUMBERS = {
    "memo-trap/p/accuracy": [(-10.0469, 1e-13), (-11.3436, 1e-15), (-9.7149, 0.00099)],
    "neqa/p/accuracy": [(0.7915, 0.5594), (-0.0012, 0.963), (2.4481, 0.0341)],
    "truthfulqa/p/mc1": [(2.0, 0.0499), (2.0, 0.0501), (-0.9999, 0.0096)],
    "truthfulqa/p/mc2": [(-24.72, 0.001), (-23.886, 0.0), (-12.0, 1.0)],
}


def effects(numbers=NUMBERS, n=64, df=60.0):
    rows = []
    for outcome, pairs in numbers.items():
        task, protocol, metric = outcome.split("/")
        for effect, (t, q) in zip(("parameters", "tokens", "interaction"), pairs, strict=True):
            labels = {"task": task, "protocol": protocol, "metric": metric, "method": "ols"}
            fit = {"estimate": t / 10, "se": 0.1, "statistic": t, "df": df, "p": q / 2}
            kind = {"effect": effect, "status": "ok", "tests": "primary", "n": n, "expected": 64}
            rows.append({**labels, **fit, "q": q, "q_by": q, "p_holm": q, **kind})
    return pd.DataFrame(rows)


def table(frame, outcomes=OUTCOMES, titles=TITLES, title="A study", notes=()):
    return table1(frame, outcomes, titles, level=0.05, title=title, notes=notes)


def body(markdown):
    """Rows of the Markdown table as lists of cells, without the rule."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def test_markdown_prints_what_the_paper_prints():
    head, *rows = body(as_markdown(table(effects())))
    heads = [f"{effect} *t*(60)" for effect in ("Parameters", "Tokens", "Interaction")]
    assert head == ["Task", heads[0], "*p*", heads[1], "*p*", heads[2], "*p*"]
    assert rows == [
        [
            "Memo Trap",
            "**-10.05**",
            "**<0.001**",
            "**-11.34**",
            "**<0.001**",
            "**-9.71**",
            "**<0.001**",
        ],
        ["NeQA", "0.79", "0.559", "0.00", "0.963", "**2.45**", "**0.034**"],
        ["TruthfulQA (MC1)", "**2.00**", "**0.050**", "2.00", "0.050", "**-1.00**", "**0.010**"],
        [
            "TruthfulQA (MC2)",
            "**-24.72**",
            "**0.001**",
            "**-23.89**",
            "**<0.001**",
            "-12.00",
            "1.000",
        ],
    ]


def test_latex_holds_the_same_numbers():
    latex = as_latex(table(effects()))
    plain = re.sub(r"\$|\\mathbf|[{}]", "", latex)
    assert r"Memo Trap & -10.05 & <0.001 & -11.34 & <0.001 & -9.71 & <0.001 \\" in plain
    assert (
        r"NeQA & $0.79$ & $0.559$ & $0.00$ & $0.963$ & $\mathbf{2.45}$ & $\mathbf{0.034}$ \\"
        in latex
    )
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\begin") == latex.count(r"\end") == 2
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert latex.count(rule) == 1
    rows = [
        line for line in latex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {6}


def test_frame_has_full_values():
    frame = as_frame(table(effects())).set_index("title")
    assert frame.loc["Memo Trap", "interaction_t"] == -9.7149
    assert frame.loc["Memo Trap", "interaction_q"] == 0.00099
    assert frame.loc["TruthfulQA (MC2)", "tokens_p"] == 0.0
    assert list(frame["n"]) == [64] * 4


def test_outcomes_stand_in_the_order_asked_for():
    rows = body(as_markdown(table(effects(), outcomes=OUTCOMES[::-1])))[1:]
    assert [row[0] for row in rows] == [
        "TruthfulQA (MC2)", "TruthfulQA (MC1)", "NeQA", "Memo Trap"
    ]  # fmt: skip


def test_all_checkpoints_and_fewer_are_both_stated():
    assert "n = 64 of 64 checkpoints" in as_markdown(table(effects()))
    fewer = effects(n=58, df=54.0)
    for text in (as_markdown(table(fewer)), as_latex(table(fewer))):
        assert "n = 58 of 64 checkpoints" in text
        assert "(54)" in text
        assert "(60)" not in text


def test_where_outcomes_differ_each_says_its_own():
    frame = effects()
    one = frame["task"] == "neqa"
    frame.loc[one, ["n", "df"]] = [40, 36.0]
    markdown = as_markdown(table(frame))
    head, memo, neqa, *_ = body(markdown)
    assert head[1] == "Parameters *t*"
    assert memo[1] == "**(60) -10.05**"
    assert neqa[1] == "(36) 0.79"
    assert "NeQA 40 of 64" in markdown


def test_what_could_not_be_estimated_is_a_dash_with_its_reason():
    frame = effects()
    numbers = ["estimate", "se", "statistic", "df", "p", "q", "q_by", "p_holm"]
    frame.loc[frame["task"] == "neqa", numbers] = np.nan
    reason = "not estimable: every cell has the value 0.5"
    frame.loc[frame["task"] == "neqa", "status"] = reason
    markdown = as_markdown(table(frame))
    assert body(markdown)[2] == ["NeQA"] + ["–"] * 6
    assert f"NeQA: {reason}" in markdown
    assert "over the 9 tests" in markdown
    assert as_latex(table(frame)).count("& --") == 6
    assert "nan" not in (markdown + as_latex(table(frame))).lower()


def test_notes_say_how_to_read_the_numbers():
    for text in (as_markdown(table(effects())), as_latex(table(effects(), notes=["fp32 & all."]))):
        assert "slope at the mean of the other predictor" in text
        assert "12 tests of the family primary (Benjamini-Hochberg)" in text
    assert r"fp32 \& all." in as_latex(table(effects(), notes=["fp32 & all."]))


def test_special_characters_do_not_break_the_table():
    titles = TITLES | {"memo-trap": r"50% of a_b & {c} #1 $x$ ~ ^ \ <|"}
    latex = as_latex(table(effects(), titles=titles, title="R&D"))
    assert (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} $<$| &" in latex
    )
    assert r"R\&D" in latex
    row = body(as_markdown(table(effects(), titles=titles)))[1]
    assert len(row) == 7
    assert row[0] == r"50% of a\_b & {c} #1 $x$ ~ ^ \\ \<\|"


def test_several_protocols_and_metrics_are_told_apart():
    numbers = {
        **dict.fromkeys(("neqa/p/accuracy", "neqa/q/margin"), NUMBERS["neqa/p/accuracy"]),
        "truthfulqa/p/mc1": NUMBERS["truthfulqa/p/mc1"],
    }
    rows = body(as_markdown(table(effects(numbers), outcomes=list(numbers))))[1:]
    assert [row[0] for row in rows] == [
        *("NeQA (accuracy, p)", "NeQA (margin, q)", "TruthfulQA (MC1, p)")
    ]


def test_an_outcome_without_effects_is_refused():
    with pytest.raises(StudyError, match="redefine/p/accuracy"):
        table(effects(), outcomes=["redefine/p/accuracy"])


def test_versions_that_were_mixed_are_told():
    def task(*rows):
        return pd.DataFrame(rows, columns=["ckpt", "torch", "transformers"])

    one, two = task(("a", "2.4", "4.44"), ("b", "2.4", "4.44")), task(("a", "2.4", "4.44"))
    assert version_notes([]) == version_notes([one, two]) == []
    assert version_notes([one, two, task(("b", "2.5", "4.44"), ("c", "", ""))]) == [
        "Scored with several versions: torch unknown, transformers unknown (1 checkpoints); "
        "torch 2.4, transformers 4.44 (2 checkpoints); torch 2.5, transformers 4.44 "
        "(1 checkpoints). Last digits may differ."
    ]
