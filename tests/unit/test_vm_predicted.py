"""The log that is predicted for a platform's boot, and the evidence for its tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privml.base.errors import MeasurementError
from privml.events.event import Evidence
from privml.machine.platform import Device, Size
from privml.measure.profiles import TD_INTELTDX, TPM
from privml.recipe.loader import shipped
from privml.vm.platforms import platform
from privml.vm.predicted import _tables, profile_of

TDX = platform("qemu-11-q35", shipped())
SMALL = Size(2, 2 << 30)


def test_a_platform_is_predicted_by_its_measuring_profile() -> None:
    assert profile_of(TDX) is TD_INTELTDX
    assert profile_of(platform("qemu-11-q35-tpm", shipped())) is TPM
    assert profile_of(replace(TDX, tpm=True)) is TPM


@pytest.mark.parametrize("tee", [None, "snp"])
def test_a_machine_without_tee_or_tpm_is_not_predicted(tee: str | None) -> None:
    with pytest.raises(MeasurementError, match=r"qemu-11-q35: its TEE is (none|snp) and it has no TPM"):
        profile_of(replace(TDX, tee=tee))


def test_tables_never_seen_in_a_boot_have_evidence_source() -> None:
    assert _tables(TDX, SMALL) == _tables(TDX, Size(255, 2 << 30)) == Evidence.HARDWARE
    assert _tables(TDX, Size(256, 2 << 30)) == _tables(TDX, Size(288, 2 << 30)) == Evidence.TPM_BOOT
    card = Device("memory", 5, (1 << 20, 1 << 20), port=True)
    for one, size in (
        (replace(TDX, booted=False), SMALL),
        (TDX, Size(289, 2 << 30)),
        (TDX, Size(2, 9 << 30)),
        (replace(TDX, devices=(card,)), SMALL),
    ):
        assert _tables(one, size) == Evidence.SOURCE
