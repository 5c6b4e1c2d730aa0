"""Generate kernel signatures, launch each through the installed Triton, and print what was seen as JSON lines.

Run by the Python that the modules are for, with one of two Triton trees in its path and the recording libcuda: once
as the wheel is (its own C code, compiled by gcc), once without a compiler. The same seed gives the same calls.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SIZES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "u1": 1, "u8": 1, "u16": 2, "u32": 4, "u64": 8}
SIZES |= {"fp16": 2, "bf16": 2, "fp32": 4, "f32": 4, "fp64": 8, "nvTmaDesc": 128}
POINTERS = ("*fp32", "*i8", "*bf16", "*fp8e4nv", "*i1")
FLOATS = ("fp16", "bf16", "fp32", "f32", "fp64")
UNCHECKED = ("u1", "u8", "u16", "u32", "u64")
EDGES = (-(2**63), -(2**31), -(2**15), -129, -128, -1, 0, 1, 127, 128, 255, 256, 2**15, 2**16, 2**31, 2**32, 2**63)
LIMITS = {"i1": (0, 255), "i8": (0, 255), "i16": (-(2**15), 2**15 - 1), "i32": (-(2**31), 2**31 - 1)}
LIMITS |= {"i64": (-(2**63), 2**63 - 1)}
REALS = (0.0, -0.0, 1.0, -1.5, 0.1, 1e-8, 65504.0, 3.0e38, 1e300, float("inf"), float("-inf"), float("nan"))
# How a call through our launcher compares with one through a generated launcher (ADR 0066).
EQUAL = "equal"
REFUSED = "both raise, and only the generated one launches before"
WRAPPED = "the generated one launches nothing, since the product of the grid wraps"
cuda = ctypes.CDLL("libcuda.so.1")
cuda.record_take.restype = ctypes.c_char_p
# After an error that a generated launcher leaves pending, no Python code may run.
scratch = {"quiet": False}


class Tensor:
    """What torch gives a kernel: an object with data_ptr()."""

    def __init__(self, address: object, name: str = "tensor") -> None:
        self.address, self.name = address, name

    def data_ptr(self) -> object:
        note(f"data_ptr {self.name}")
        if isinstance(self.address, BaseException):
            raise self.address
        return self.address


class Descriptor:
    """A tensor descriptor on the host."""

    def __init__(self, base: Tensor, shape: list[int], strides: list[int], padding: str) -> None:
        self.base, self.shape, self.strides, self.padding = base, shape, strides, padding


class Address(int):
    """An int that also has data_ptr(); as a pointer it is taken as an int."""

    def data_ptr(self) -> int:
        return int(self)


class Index:
    """Not an int, but usable as one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Real:
    """Not a float, but usable as one."""

    def __float__(self) -> float:
        return 2.5


class Number(int):
    """A subclass of int."""


class Pair(tuple):  # type: ignore[type-arg]
    """A subclass of tuple, as named tuples are."""

    __slots__ = ()


class Unread:
    """A sequence whose items cannot be read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> object:
        raise KeyError(index)


def note(text: str) -> None:
    cuda.record_note(text.encode())


@dataclass
class Call:
    """The arguments of one launch, and what is special about it."""

    arguments: list[object]
    grid: tuple[object, object, object] = (4, 2, 1)
    stream: object = 0x5EED
    function: object = 0xF00D
    metadata: object = (4, 1, 0)
    enter: object = None
    leave: object = None
    fault: str | None = None
    expected: str = EQUAL
    context: bool = True
    failing: tuple[str, int] | None = None


@dataclass
class Kernel:
    """A signature, and the launcher's other data."""

    signature: dict[int, Any]
    cooperative: bool = False
    dependent: bool = False
    clusters: int = 1
    scratch: tuple[int, int] = (0, 0)
    descriptors: list[dict[str, object] | None] | None = None
    sizes: list[int] = field(default_factory=list)


def kind(chance: random.Random, depth: int = 0) -> Any:
    """A random kind of argument; tuples hold others."""
    what = chance.random()
    if what < 0.3:
        return chance.choice(POINTERS)
    if what < 0.6:
        return chance.choice(list(LIMITS) + list(UNCHECKED))
    if what < 0.75:
        return chance.choice(FLOATS)
    if what < 0.88 or depth == 3:
        return "constexpr"
    return tuple(kind(chance, depth + 1) for _ in range(chance.randint(0, 4)))


def sizes_of(ty: Any) -> list[int]:
    if isinstance(ty, tuple):
        return [size for one in ty for size in sizes_of(one)]
    return [] if ty == "constexpr" else [8 if ty[0] == "*" else SIZES[ty]]


def kernel(chance: random.Random, number: int) -> Kernel:
    """Kernel ``number``: first each kind alone, then random ones, some of them with tensor descriptors or long."""
    alone = [*SIZES, *POINTERS[:1], "constexpr", (), ("i32",), ("i8", ("*fp32", ("constexpr", "fp16")), "u64")]
    if number == 0:
        made = Kernel({})
    elif number <= len(alone):
        made = Kernel({0: alone[number - 1]})
    else:
        count = chance.choice((1, 2, 3, 5, 8, 13, 21, 40, 90))
        made = Kernel({index: kind(chance) for index in range(count)})
    made.cooperative, made.dependent = chance.random() < 0.3, chance.random() < 0.3
    made.clusters = chance.choice((1, 1, 1, 2, 4, 8, 16))
    made.scratch = (chance.choice((0, 0, 16)), chance.choice((0, 0, 32)))
    made.sizes = [size for ty in made.signature.values() for size in sizes_of(ty)]
    if number % 4 == 3:
        described(chance, made)
    return made


def described(chance: random.Random, made: Kernel) -> None:
    """Add one or two tensor descriptors, each lowered to a tensor map or to pointer, shape and strides."""
    made.descriptors, end = [], len(made.signature)
    lowered = chance.random() < 0.6
    for index in range(end, end + chance.randint(1, 2)):
        rank = chance.randint(1, 5)
        made.signature[index] = f"tensordesc<fp16[{','.join(['16'] * rank)}]>"
        if lowered:
            box = [chance.choice((16, 32, 64)) for _ in range(rank)]
            more = {"swizzle": chance.randint(0, 3), "elem_size": 2, "elem_type": chance.choice((6, 8, 9, 10))}
            made.descriptors.append({**more, "block_size": box, "fp4_padded": chance.random() < 0.3})
            made.sizes += [128, *[4] * rank, *[8] * rank]
        else:
            made.sizes += [8, *[8] * (2 * rank), 1, *[4] * rank, *[8] * rank]
    if not lowered:
        made.descriptors = None


def value(chance: random.Random, ty: Any) -> object:
    """An argument that the kind takes."""
    if isinstance(ty, tuple):
        items = [value(chance, one) for one in ty]
        return chance.choice((tuple, tuple, tuple, Pair, list))(items)
    if ty == "constexpr":
        return chance.choice((None, 64, "text", (1, 2), object))
    if ty == "nvTmaDesc":
        return tensor_map()
    if ty.startswith("tensordesc"):
        rank = ty.count(",") + 1
        strides = [chance.choice((1024, 4096)) for _ in range(rank - 1)] + [1]
        shape = [chance.choice((1, 16, 333, 2**20)) for _ in range(rank)]
        return Descriptor(Tensor(chance.choice((0x7000, 0x8000))), shape, strides, chance.choice(("zero", "nan")))
    if ty[0] == "*":
        address = chance.choice((0, 0x7F0012345600, 1, 2**48))
        return chance.choice((None, address, Tensor(address), Number(address), True, 2**64 - 1))
    if ty in FLOATS:
        low = [one for one in REALS if ty != "fp16" or not 65504.0 < abs(one) < float("inf")]
        return chance.choice((*low, 3, Real(), True))
    if ty in UNCHECKED:
        return chance.choice((*EDGES, 2**64, -(2**70), True, Number(7)))
    low, high = LIMITS[ty]
    return chance.choice((low, high, 0, 1, True, Number(1), Index(3), chance.randint(low, high)))


def tensor_map() -> object:
    from triton.runtime import driver

    return driver.active.utils.fill_tma_descriptor(0x9000, 1, 2, 6, [16, 16], [64, 32], [32, 1], 0)


def faults_of(ty: Any) -> Iterator[tuple[str, object, bool]]:
    """Arguments that the kind does not take: name, value, and whether it is seen after arguments are converted."""
    if isinstance(ty, tuple):
        yield "int for a tuple", 1, False
        yield "bytes for a tuple", bytes(len(ty)), False
        yield "None for a tuple", None, False
        yield "long tuple", (None,) * (len(ty) + 1), False
        if ty:
            yield "short tuple", (), False
            yield "unreadable tuple", Unread(len(ty)), False
        return
    if ty == "constexpr":
        return
    if ty == "nvTmaDesc":
        yield "None for a tensor map", None, False
        yield "int for a tensor map", 5, False
        return
    if ty[0] == "*":
        yield "text for a pointer", "0x7000", False
        yield "float for a pointer", 7.0, False
        yield "data_ptr raises", Tensor(LookupError("no storage")), False
        yield "data_ptr gives text", Tensor("0x7000"), False
        yield "data_ptr gives None", Tensor(None), False
        yield "pointer of the CPU", Tensor(0xBAD00040), False
        yield "pointer that the driver cannot tell", Tensor(0xDEAD0040), False
        yield "negative pointer", -1, True
        yield "pointer of 65 bits", 2**64, True
        yield "data_ptr is negative", Tensor(-5), True
        return
    if ty in FLOATS:
        yield "text for a float", "1.0", False
        yield "None for a float", None, False
        yield "int beyond floats", 10**400, False
        if ty == "fp16":
            yield "float beyond fp16", 65520.0, True
        return
    yield "float for an int", 1.0, False
    yield "text for an int", "1", False
    yield "None for an int", None, False
    if ty in LIMITS:
        low, high = LIMITS[ty]
        yield "below the range", low - 1, False
        yield "above the range", high + 1, False
        yield "index above the range", Index(high + 1), False
        yield "far above the range", 2**200, False
    else:
        yield "index for an unchecked int", Index(3), False


def raiser(metadata: object) -> None:
    note(f"hook {metadata}")
    raise ArithmeticError("the hook")


def hook(name: str) -> Callable[[object], None]:
    return lambda metadata: note(f"{name} {metadata}")


def calls(chance: random.Random, made: Kernel) -> Iterator[Call]:
    """Honest calls, then calls with one fault each."""
    kinds = list(made.signature.values())

    def honest() -> list[object]:
        return [value(chance, ty) for ty in kinds]

    for number in range(6):
        call = Call(
            honest(), metadata=(chance.choice((1, 2, 4, 8, 32)), made.clusters, chance.choice((0, 1024, 232448)))
        )
        call.grid = (chance.choice((1, 2, 65535)), chance.choice((1, 1, 7)), chance.choice((1, 5)))
        if number == 3:
            call.enter, call.leave = hook("enter"), hook("leave")
        if number == 4:
            call.context = False
        if number == 5:
            call.stream, call.function = 2**64 + 5, -1
        yield call
    for grid in ((0, 1, 1), (1, 0, 5), (1, 1, -1), (-1, -1, 1), (True, Index(2), Number(3))):
        yield Call(honest(), grid=grid, metadata=(4, made.clusters, 0), leave=hook("leave"))
    yield Call(honest(), grid=(65536, 65535, 1), expected=WRAPPED, metadata=(4, made.clusters, 0))
    yield from wrong_calls(honest, made)
    for index, ty in enumerate(kinds):
        for name, bad, late in faults_of(ty):
            if chance.random() < 20 / (len(kinds) * 8) or len(kinds) < 3:
                arguments = honest()
                arguments[index] = bad
                if late:  # a generated launcher goes on with the error pending, so no Python code may run afterwards
                    arguments = [
                        one if at == index else still(ty)
                        for at, (one, ty) in enumerate(zip(arguments, kinds, strict=True))
                    ]
                expected = REFUSED if late else EQUAL
                yield Call(arguments, fault=name, expected=expected, enter=hook("enter"), leave=hook("leave"))


def still(ty: Any) -> object:
    """An argument of this kind whose conversion runs no Python code."""
    if isinstance(ty, tuple):
        return tuple(still(one) for one in ty)
    if ty == "constexpr" or ty[0] == "*":
        return None
    if ty == "nvTmaDesc":
        return tensor_map()
    if ty.startswith("tensordesc"):
        rank = ty.count(",") + 1
        return Descriptor(Address(64), [16] * rank, [1] * rank, "zero")
    return 1


def wrong_calls(honest: Callable[[], list[object]], made: Kernel) -> Iterator[Call]:
    """One fault outside the kernel's own arguments each."""
    metadata = (4, made.clusters, 0)
    yield Call([*honest(), 1], fault="one argument more", metadata=metadata)
    if (
        made.signature
        and made.descriptors is None
        and not any("tensordesc" in str(ty) for ty in made.signature.values())
    ):
        yield Call(honest()[:-1], fault="one argument less", metadata=metadata)
    for grid in ((1.0, 1, 1), (2**31, 1, 1), (1, None, 1), (1, 1, "1")):
        yield Call(honest(), fault=f"grid {grid}", grid=grid, metadata=metadata)
    yield Call(honest(), fault="stream", stream="0", metadata=metadata)
    yield Call(honest(), fault="function", function=1.0, metadata=metadata)
    for bad in ([4, 1, 0], None, (4, 1), (4, 1, 0, 0), (4, 1, "0"), (4, 2**40, 0)):
        yield Call(honest(), fault=f"metadata {bad}", metadata=bad, enter=hook("enter"))
    yield Call(honest(), fault="enter raises", enter=raiser, leave=hook("leave"), metadata=metadata)
    yield Call(honest(), fault="leave raises", enter=hook("enter"), leave=raiser, metadata=metadata)
    yield Call(honest(), fault="hook is no function", enter=3, metadata=metadata)
    yield Call(
        honest(), fault="launch fails", failing=("cuLaunchKernelEx", 719), leave=hook("leave"), metadata=metadata
    )
    for name in ("cuCtxGetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"):
        arguments = [still(ty) for ty in made.signature.values()]
        yield Call(arguments, fault=name, failing=(name, 3), context=False, expected=REFUSED, metadata=metadata)
    if made.clusters == 16:
        yield Call(honest(), fault="cluster", failing=("cuFuncSetAttribute", 1), expected=REFUSED, metadata=metadata)


def launch(launcher: Any, call: Call) -> dict[str, object]:
    """What one launch raises, and everything that was seen by the driver, hooks and tensors, in order."""
    cuda.record_context(int(call.context))
    scratch["quiet"] = call.expected == REFUSED
    name, code = call.failing or ("", 0)
    cuda.record_fail(name.encode(), code)
    cuda.record_take()
    raised = None
    try:
        launcher(
            *call.grid,
            call.stream,
            call.function,
            call.metadata,
            "of the launch",
            call.enter,
            call.leave,
            *call.arguments,
        )
    except Exception as error:  # noqa: BLE001 - what it is, is compared
        raised = [type(error).__name__, str(error)]
    note("end")
    return {"raised": raised, "seen": cuda.record_take().decode().splitlines()}


def fake_torch() -> types.ModuleType:
    """As much of torch as Triton's driver looks at."""
    torch, module = types.ModuleType("torch"), types.ModuleType("torch._C")
    module._cuda_getCurrentRawStream = lambda device: 0x5EED  # type: ignore[attr-defined]
    torch.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_device_capability=lambda device=None: (9, 0),
        current_device=lambda: 0,
        set_device=lambda device: None,
        is_available=lambda: True,
    )
    torch.version = types.SimpleNamespace(hip=None)  # type: ignore[attr-defined]
    torch._C = module  # type: ignore[attr-defined]
    torch.Tensor = type("Tensor", (), {})  # type: ignore[attr-defined]
    return torch


def prepare() -> Any:
    """Triton with the NVIDIA driver active and an allocator for scratch memory; its module of that driver."""
    import triton
    from triton.runtime import _allocation, driver

    torch = fake_torch()
    sys.modules |= {"torch": torch, "torch._C": torch._C}
    from triton.backends.nvidia import driver as nvidia

    driver.set_active(nvidia.CudaDriver())

    def allocate(size: int, align: int, stream: object) -> object:
        return None if scratch["quiet"] else Tensor(0x6000 + size + align, f"scratch {size} {align} {stream}")

    triton.set_allocator(allocate)
    _allocation.set_profile_allocator(allocate)
    return nvidia


def main(seed: int, first: int, last: int) -> None:
    nvidia = prepare()
    for number in range(first, last):
        chance = random.Random(f"{seed}/{number}")
        made = kernel(chance, number)
        source = types.SimpleNamespace(signature=made.signature, constants={})
        more = {"num_ctas": made.clusters, "launch_cooperative_grid": made.cooperative, "launch_pdl": made.dependent}
        more |= {"global_scratch_size": made.scratch[0], "profile_scratch_size": made.scratch[1]}
        more |= {"global_scratch_align": 128, "profile_scratch_align": 64, "tensordesc_meta": made.descriptors}
        launcher = nvidia.CudaLauncher(source, types.SimpleNamespace(**more))
        sizes = [*made.sizes, 8, 8]
        cuda.record_sizes((ctypes.c_int * len(sizes))(*sizes), len(sizes))
        for call in calls(chance, made):
            line = {
                "kernel": number,
                "signature": str(made.signature),
                "fault": call.fault,
                "expected": call.expected,
            }
            print(json.dumps({**line, **launch(launcher, call)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
