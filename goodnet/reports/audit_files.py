"""The files of an audit: for people, for programs, and for pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

from goodnet.errors import printable
from goodnet.reports.audits import (
    AuditedModel,
    Limits,
    State,
    audit_contents,
    audit_rows,
    plain_audit_rows,
)
from goodnet.reports.reading import as_list, as_mapping, as_text, optional, reading
from goodnet.reports.report import link_to_report, render_page
from goodnet.reports.results import GoodNetRates, Rates, read_rates
from goodnet.reports.tables import write_csv
from goodnet.storage.files import atomic_folder, read_json, write_json

AUDIT = "audit.json"
PAGE = "audit.html"
_STATES: Mapping[str, State] = {state: state for state in get_args(State)}


def write_audit(folder: Path, audited: Sequence[AuditedModel], limits: Limits) -> None:
    """Write audit.json, .csv, .html and junit.xml; their folder appears once it is complete.

    Args:
        folder: of the audit, which is not there yet.
        audited: what came of each net.
        limits: that they were held against.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        write_json(temporary / AUDIT, audit_contents(folder.name, limits, audited))
        write_csv(temporary / "audit.csv", plain_audit_rows(audited))
        (temporary / "junit.xml").write_bytes(junit(folder.name, audited))
        page = render_page(
            PAGE,
            name=folder.name,
            limits=limits,
            audited=audited,
            rows=audit_rows(audited),
            reports=[link_to_report(one.run, folder) for one in audited],
        )
        (temporary / PAGE).write_text(page, "utf-8")


def read_audit(folder: Path) -> tuple[AuditedModel, ...]:
    """Read what came of each net from audit.json.

    Args:
        folder: of the audit.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    with reading(folder / AUDIT) as path:
        return as_list(as_mapping(read_json(path))["models"], _read_model)


def _read_model(value: object) -> AuditedModel:
    found = as_mapping(value)
    return AuditedModel(
        model=as_text(found["model"]),
        state=_STATES[as_text(found["state"])],
        run=optional(found["run"], as_text),
        error=optional(found["error"], as_text),
        verdict=optional(found["verdict"], as_text),
        why=optional(found["why"], as_text),
        baseline=optional(found["baseline"], partial(read_rates, Rates)),
        file=optional(found["file"], as_text),
        goodnet=optional(found["goodnet"], partial(read_rates, GoodNetRates)),
        crossed=as_list(found["crossed"], as_text),
    )


def junit(name: str, audited: Sequence[AuditedModel]) -> bytes:
    """Return the report that pipelines read: a test case for each net.

    A net that could not be repaired is an error, one whose GoodNet is over a limit a failure.

    Args:
        name: of the audit.
        audited: what came of each net.
    """
    failed = [one for one in audited if one.state == "failed"]
    over = [one for one in audited if not one.passed and one.state != "failed"]
    suite = ElementTree.Element(
        "testsuite",
        name=printable(name),
        tests=str(len(audited)),
        errors=str(len(failed)),
        failures=str(len(over)),
    )
    for one in audited:
        case = ElementTree.SubElement(
            suite, "testcase", classname="goodnet.audit", name=printable(one.model)
        )
        if not one.passed:
            kind = "error" if one in failed else "failure"
            ElementTree.SubElement(case, kind, message=one.remark)
        said = printable(f"{one.state}: {one.verdict or ''} {one.why or ''}".strip())
        ElementTree.SubElement(case, "system-out").text = said
    found: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return found
