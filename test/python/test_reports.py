"""The reports as software that is not ours reads them. REPORT_SAMPLES is the folder that write-samples.ts filled."""

import os
from pathlib import Path

import hl7
import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

SAMPLES = Path(os.environ["REPORT_SAMPLES"])
MESSAGES = sorted(SAMPLES.glob("*.hl7"))
BUNDLES = sorted([*SAMPLES.glob("*.bundle.json"), *SAMPLES.glob("*.transaction.json")])
STATUS = {"preliminary": "P", "final": "F", "amended": "C", "corrected": "C"}


def read(name: str) -> str:
    # Not as text: Python would turn the carriage returns into line feeds.
    return (SAMPLES / name).read_bytes().decode("utf-8")


def parse(name: str) -> hl7.Message:
    return hl7.parse(read(name))


def test_there_are_samples():
    assert len(MESSAGES) == 7
    assert len(BUNDLES) == 14


@pytest.mark.parametrize("file", BUNDLES, ids=lambda file: file.stem)
def test_bundle_is_fhir_r4(file: Path):
    bundle = Bundle.model_validate_json(file.read_bytes())
    kinds = {entry.resource.get_resource_type() for entry in bundle.entry}
    assert {"DiagnosticReport", "Observation", "Specimen", "Provenance"} <= kinds
    observations = [e.resource for e in bundle.entry if e.resource.get_resource_type() == "Observation"]
    report = bundle.entry[0].resource
    assert {o.status for o in observations} == {report.status}
    assert len(report.result) == len(observations)


def test_audit_events_are_fhir_r4():
    bundle = Bundle.model_validate_json(read("audit-events.json"))
    assert {entry.resource.get_resource_type() for entry in bundle.entry} == {"AuditEvent"}
    assert {event.action for event in (entry.resource for entry in bundle.entry)} == set("CRUDE")


def test_bundle_models_refuse_what_is_wrong():
    with pytest.raises(ValueError, match="observer"):
        Bundle.model_validate_json(read("audit-events.json").replace('"observer"', '"watcher"'))
    with pytest.raises(ValueError, match="status"):
        Bundle.model_validate_json(read("final.bundle.json").replace('"status":"final",', ""))


@pytest.mark.parametrize("file", MESSAGES, ids=lambda file: file.stem)
def test_message_has_the_structure_of_oru_r01(file: Path):
    message = parse_message(read(file.name), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    assert message.validate()
    order = message.oru_r01_patient_result.oru_r01_order_observation
    assert len(order.oru_r01_observation) >= 12
    assert len(order.oru_r01_specimen) == 1
    assert len(message.oru_r01_patient_result.oru_r01_patient.pid) == 1


def test_structure_check_refuses_what_is_wrong():
    broken = read("final.hl7").replace("SPM|1|S-77||BLD^Whole blood^HL70487", "SPM|1|S-77||")
    with pytest.raises(HL7apyException):
        parse_message(broken, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()


@pytest.mark.parametrize("state", STATUS)
def test_status_and_order(state: str):
    message = parse(f"{state}.hl7")
    assert str(message["MSH.F9"]) == "ORU^R01^ORU_R01" or message["MSH.F9.R1.C3"] == "ORU_R01"
    assert {str(obx[11]) for obx in message.segments("OBX")} == {STATUS[state]}
    assert str(message.segment("OBR")[25]) == STATUS[state]
    assert str(message.segment("OBR")[2]) == "ORD-5"
    assert str(message.segment("SPM")[17]) == "20261120071500+0000"
    assert message["OBX.F3.R1.C1"] == "26511-6"
    assert message["OBX.F3.R1.C3"] == "LN"
    assert message["OBX.F3.R1.C4"] == "neutrophil-percent"


def test_text_survives_the_way_there_and_back():
    message = parse("with-text-that-needs-escaping.hl7")
    assert message.unescape(str(message.segment("OBR")[18])) == "A|B^C&D~E\\F"
    assert message["PID.F3.R1.C1"] == "Zoë Ångström 李"
