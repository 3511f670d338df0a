"""What a run's data quality shows in the Prefect UI: the report in a few lines, and where the whole of it is."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from infra.data_quality import WrittenQuality
from infra.reports.quality_report import QualityReport, share_text

_SHOWN = 5
"""Rules and files in a list; of more, how many."""


def show_quality(written: WrittenQuality) -> None:
    """Write the page of one run's quality."""
    text = quality_markdown(written.report, str(written.path))
    create_markdown_artifact(text, key="quality", description=written.report.sentence)


def quality_markdown(report: QualityReport, path: str) -> str:
    """The report as lines, which Prefect wraps: shares, severities with what to do, rules, files, the whole page."""
    found = report.severities
    shares = f"{share_text(report.clean_share)} of {report.rows:,} rows, {share_text(report.pass_rate)} of the rules"
    lines = [f"## {report.title}", "", report.sentence, "", f"- **clean**: {shares}"]
    lines += [f"- **{s.severity}**: {s.findings:,} findings, {s.failed:,} values. {s.recommendation}" for s in found]
    rules = [f"{b.source} `{b.rule}`: {b.failed:,} of {b.checked:,}, {b.message}" for b in report.broken]
    made = [f"{b.group} `{b.rule}`: {b.failed:,} of {b.checked:,}, {b.message}" for b in report.features]
    files = [f"refused `{file}`: {why}" for file, why in report.refused]
    days = [f"{u.source} on {u.day}, {u.rule} ({u.severity}): {u.message}" for u in report.unusual]
    changes = [f"{a.source} is as it should be since {a.since}: {a.reason}" for a in report.accepted]
    for said in (rules, made, days, changes, files):
        lines += [f"- {one}" for one in said[:_SHOWN]]
        if len(said) > _SHOWN:
            lines.append(f"- and {len(said) - _SHOWN:,} more")
    return "\n".join([*lines, "", f"The whole report: {path}"])
