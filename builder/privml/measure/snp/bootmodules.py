"""The modules of OVMF's AmdSev build, by GUID, name and type: kept or removed where only the kernel may start.

Every module of a firmware must be listed, and every listed module must be there: one that is not known may read a
disk or start a program, so a person has to look at it first. Recorded from Debian's ovmf-amdsev 2026.08+ds-2.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TypeAlias

Modules: TypeAlias = Mapping[uuid.UUID, str]
"""GUID -> name; a file without a program has none."""


def _modules(text: str) -> Modules:
    rows = (line.partition(" ") for line in text.split("\n") if line)
    return {uuid.UUID(guid): name for guid, _, name in rows}


OUTER = _modules("""
9e21fd93-9c72-4c15-8c4b-e77f1db2d792
df1ccef6-f301-4a63-9661-fc6030dcc880 SecMain
1ba0062e-c779-4582-8566-336ae8f78f09
""")
"""Every file that is not compressed: the volumes, the first program, and the reset vector with the tables."""

PEI = _modules("""
1b45cc0a-156a-428a-af62-49864da0e6e6
52c05b14-0b98-496c-bc3b-04b50211d680 PeiCore
9b3ada4f-ae56-4c24-8dea-f03b7558ae50 PcdPeim
a3610442-e69f-4df3-82ca-2360c4031a23 ReportStatusCodeRouterPei
9d225237-fa01-464c-a949-baabc02d31d0 StatusCodeHandlerPei
222c386d-5abc-4fb4-b124-fbb82488acf4 PlatformPei
86d70125-baa3-4296-a62f-602bebbb9081 DxeIpl
89e549b0-7cfe-449d-9ba3-10d8b2312d71 S3Resume2Pei
edadeb9d-ddba-48bd-9d22-c1c169c8c5c6 CpuMpPei
45260dde-0c3c-4b41-a226-ef3803fac7d4 SecretPei
f12f698a-e506-4a1b-b32e-6920e55da1c4 TpmMmioSevDecryptPei
8ad3148f-945f-46b4-8acd-71469ea73945 Tcg2ConfigPei
2be1e4a6-6505-43b3-9ffc-a3c8330e0432 TcgPei
a0c98b77-cba5-4bb8-993b-4af6ce33ece4 Tcg2Pei
47727552-a54b-4a84-8cc1-bff23e239636 Tcg2PlatformPei
""")
"""Every module of the volume of the early phase; all are kept."""

KEPT = _modules("""
fc510ee7-ffdc-11d4-bd41-0080c73c8881
d6a2cb7f-6a18-4e2f-b43b-9920a733700a DxeCore
d93ce3d8-a7eb-4730-8c8e-cc466a9ecc3c ReportStatusCodeRouterRuntimeDxe
6c2004ef-4e0e-4be4-b14c-340eb4aa5891 StatusCodeHandlerRuntimeDxe
80cf7257-87ab-47f9-a3fe-d50b76d89541 PcdDxe
b601f8c4-43b7-4784-95b1-f4226cb40cee RuntimeDxe
f80697e9-7fd6-4665-8646-88e33ef71dfc SecurityStubDxe
a19b1fe7-c1bc-49f8-875f-54a5d542443f CpuIo2Dxe
1a1e4886-9517-440e-9fde-3be44cee2136 CpuDxe
52fe8196-f9de-4d07-b22f-51f77a0e7c41 LocalApicTimerDxe
f6697ac4-a776-4ee1-b643-1feff2b615bb IncompatiblePciDeviceSupportDxe
11a6edf6-a9be-426d-a6cc-b22fe51d9224 PciHotPlugInitDxe
128fb770-5e79-4176-9e51-9bb268a17dd1 PciHostBridgeDxe
93b80004-9fb3-11d4-9a3a-0090273fc14d PciBusDxe
4b28e4c7-ff36-4e10-93cf-a82159e777c5 ResetSystemRuntimeDxe
c8339973-a563-4561-b858-d8476f9defc4 Metronome
378d7b65-8da9-4773-b6e4-a47826a833e1 PcRtc
83dd3b39-7caf-4fac-a542-e050b767e3a7 VirtioPciDeviceDxe
0170f60c-1d40-4651-956d-f0bd9879d527 Virtio10
f099d67f-71ae-4c36-b2a3-dceb0eb2b7d8 WatchdogTimer
ad608272-d07f-4964-801e-7bd3b7888652 MonotonicCounterRuntimeDxe
42857f0a-13f2-4b21-8a23-53d3f714b840 CapsuleRuntimeDxe
51ccf399-4fdf-4e55-a45b-e123f84d456a ConPlatformDxe
408edcec-cf6d-477c-a5a8-b4844e3de281 ConSplitterDxe
9e863906-a40f-4875-977f-5b93ff237fc6 TerminalDxe
6d33944a-ec75-4855-a54d-809c75241f6c BdsDxe
806040ca-dad9-4978-a3b4-2d2ab0c8a48f QemuKernelLoaderFsDxe
9b680fce-ad6b-4f3a-b60b-f59899003443 DevicePathDxe
348c4d62-bfbd-4882-9ece-c80bb1c4783b HiiDatabase
864e1ca8-85eb-4d63-9dcc-6e0fc90ffd55 SioBusDxe
e2775b47-d453-4ee3-ada7-391a1b05ac17 PciSioSerialDxe
9622e42c-8e38-4a08-9e8f-54f784652f6b AcpiTableDxe
17985e6f-e778-4d94-aefa-c5dd2b77e186 QemuFwCfgAcpiPlatform
bdce85bb-fbaa-4f4e-9264-501a2c249581 S3SaveStateDxe
fa20568b-548b-4b2b-81ef-1ba08d4a3cec BootScriptExecutorDxe
6e2b9619-8810-4e9d-a177-d432bb9abeda SecretDxe
d9dcc5df-4007-435e-9098-8970935504b2 PlatformDxe
2ec9da37-ee35-4de9-86c5-6d9a81dc38a7 AmdSevDxe
8657015b-ea43-440d-949a-af3be365c0fc IoMmuDxe
733cbac2-b23f-4b92-bc8e-fb01ce5907b7 FvbServicesRuntimeDxe
22dc2b60-fe40-42ac-b01f-3ab1fad9aad8 EmuVariableFvbRuntimeDxe
fe5cea76-4f72-49e8-986f-2cd899dffe5d FaultTolerantWriteDxe
cbd2e4d5-7068-4ff5-b462-9822b4ad8d60 VariableRuntimeDxe
a5683620-7998-4bb2-a377-1c1e31e1e215 TcgDxe
fdff263d-5f68-4591-87ba-b768f445a9af Tcg2Dxe
5cab08d5-ad8f-4d8b-b828-d17a8d9fe977 Tcg2PlatformDxe
4d9cbef0-15a0-4d0c-83db-5213e710c23f Tcg2ConfigDxe
b981a835-6ee8-4f4c-ae0b-210aa0bfbf01 RngDxe
58e26f0d-cbac-4bba-b70f-18221415665a VirtioRngDxe
""")
"""The modules of the volume of drivers that are kept."""

REMOVED: Mapping[str, Modules] = {
    "Programs and menus: they start what is chosen at the console, with a command line from there.": _modules("""
ebf8ed7c-0dd1-4787-84f1-f48d537dcacf DriverHealthManagerDxe
462caa21-7614-4503-836e-8ab6f4662331 UiApp
eec25bdc-67f2-4d95-b1d5-f81b2039d11d BootManagerMenuApp
ebf342fe-b1d3-4ef8-957c-8048606ff671 SetupBrowser
e660ea85-058e-4b55-a54b-f02f83a24707 DisplayEngine
b5ae312c-bc8a-43b1-9c62-ebb826dd5d07 Grub
"""),
    "Disks and what is on them: block devices, partitions, RAM disks that ACPI tables declare.": _modules("""
11d92dfb-3ca9-4f93-ba2e-4780ed3e03b5 VirtioBlkDxe
fab5d4f4-83c0-4aaf-8480-442d11df6cea VirtioScsiDxe
6b38f7b4-ad98-40e9-9093-aca2b5a253c4 DiskIoDxe
1fa1f39e-feff-4aae-bd7b-38a070a3b609 PartitionDxe
28a03ff4-12b3-4305-a417-bb1a4f94081e RamDiskDxe
0167ccc4-d0f7-4f21-a3ef-9e64b7cdce8b ScsiBus
0a66e322-3740-4cce-ad62-bd172cecca35 ScsiDisk
820c59bb-274c-43b2-83ea-dac673035a59 SataController
5e523cb4-d397-4986-87bd-a6dd8b22f455 AtaAtapiPassThruDxe
19df145a-b1d4-453f-8507-38816676d7f6 AtaBusDxe
5be3bdf4-53cf-46a3-a6a9-73c34a6e5ee3 NvmExpressDxe
8e325979-3fe1-4927-aae2-8f5c4bd2af0d SdMmcPciHcDxe
430ac2f7-eec6-4093-94f7-9f825a7c1c40 SdDxe
2145f72f-e6f1-4440-a828-59dc9aab5f89 EmmcDxe
"""),
    "File systems, and the comparison of names that they use.": _modules("""
cd3bafb6-50fb-4fe8-8e4e-ab74d2c1a600 EnglishDxe
961578fe-b6b7-44c3-af35-6bc705cd2b1f Fat
905f13b0-8f91-4b0a-bd76-e1e78f9422e4 UdfDxe
"""),
    "USB: disks, and keyboards for menus.": _modules("""
2fb92efa-2ee0-4bae-9eb6-7464125e1ef7 UhciDxe
bdfe430e-8f2a-4db0-9991-6f856594777e EhciDxe
b7f50e91-a759-412c-ade4-dcd03e7f7c28 XhciDxe
240612b7-a063-11d4-9a3a-0090273fc14d UsbBusDxe
2d2e62cf-9ecf-43b7-8219-94e7fc713dfe UsbKbDxe
9fb4b4a7-42c0-4bcd-8540-9bcc6711f83e UsbMassStorageDxe
"""),
    "The interpreter of EFI byte code, which only option ROMs are written in.": _modules("""
13ac6dd0-73d0-11d4-b06b-00aa00bd6de7 EbcDxe
"""),
    "SMBIOS: strings of the host, which systemd-stub adds to the kernel's command line.": _modules("""
f9d88642-0737-49bc-81b5-6889cd57d9ea SmbiosDxe
4110465d-5ff3-4f4b-b580-24ed0d06747a SmbiosPlatformDxe
"""),
    "Screen and keyboard: they read what the host gives them, and a guest's console is its serial port.": _modules("""
cccb0c28-4b24-11d5-9a5a-0090273fc14d GraphicsConsoleDxe
c4d1f932-821f-4744-bf06-6d30f7730f8d Ps2KeyboardDxe
b8e62775-bb0a-43f0-a843-5be8b14f8ccd BootGraphicsResourceTableDxe
f74d20ee-37e7-48fc-97f7-9b1047749c69 LogoDxe
e3752948-b9a1-4770-90c4-df41c38986be QemuVideoDxe
dce1b094-7dc6-45d0-9fdd-d7fc3cc3e4ef QemuRamfbDxe
d6099b94-cd97-4cc5-8714-7f6312701a8a VirtioGpuDxe
"""),
}
"""Reason -> modules of the volume of drivers that are turned into padding."""

DRIVERS: Modules = {**KEPT, **{guid: name for modules in REMOVED.values() for guid, name in modules.items()}}
"""Every module of the volume of drivers: `REMOVED` and `KEPT`."""

PEI_DRIVER, DRIVER = 0x06, 0x07
_FREEFORM = 0x02
TYPES: Mapping[uuid.UUID, int] = {
    uuid.UUID("9e21fd93-9c72-4c15-8c4b-e77f1db2d792"): 0x0B,  # of volumes
    uuid.UUID("df1ccef6-f301-4a63-9661-fc6030dcc880"): 0x03,  # SecMain
    uuid.UUID("1ba0062e-c779-4582-8566-336ae8f78f09"): 0x01,  # raw
    uuid.UUID("1b45cc0a-156a-428a-af62-49864da0e6e6"): _FREEFORM,  # which modules start first
    uuid.UUID("fc510ee7-ffdc-11d4-bd41-0080c73c8881"): _FREEFORM,
    uuid.UUID("52c05b14-0b98-496c-bc3b-04b50211d680"): 0x04,  # PeiCore
    uuid.UUID("d6a2cb7f-6a18-4e2f-b43b-9920a733700a"): 0x05,  # DxeCore
    # Applications: UiApp, BootManagerMenuApp, Grub.
    uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331"): 0x09,
    uuid.UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d"): 0x09,
    uuid.UUID("b5ae312c-bc8a-43b1-9c62-ebb826dd5d07"): 0x09,
}
"""The types of files (UEFI PI specification 1.8, volume 3, section 2.1.4.1) that are no drivers of their phase."""
