"""Parse ranges of shapes: ``1..64`` processors, ``2GiB..512GiB`` of memory."""

from __future__ import annotations

import re

from privml.base.errors import UsageError
from privml.base.sizes import MAX_VCPUS, size_of, size_text
from privml.machine.platform import Size

MAX_SHAPES = 4096
_MIB = 1 << 20


def vcpu_counts(text: str) -> tuple[int, ...]:
    """``2``, ``1,2,4``, ``1..64`` (each of them); ``UsageError`` for anything else."""
    counts: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", word)
        if match is None:
            raise UsageError(f"--vcpus `{word[:40]}`: expected a number or a range, as in 2 or 1..64")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high <= MAX_VCPUS:
            raise UsageError(f"--vcpus {word}: expected 1 to {MAX_VCPUS}")
        counts.extend(range(low, high + 1))
    return tuple(dict.fromkeys(counts))


def memory_sizes(text: str) -> tuple[int, ...]:
    """``4GiB``, ``2GiB,2815MiB``, ``2GiB..512GiB`` (doubling); bytes. ``UsageError`` for anything else."""
    sizes: list[int] = []
    for word in text.split(","):
        ends = [_size(end) for end in word.split("..")]
        if len(ends) > 2 or ends[0] > ends[-1]:
            raise UsageError(f"--memory {word[:40]}: expected a size or a range, as in 4GiB or 2GiB..512GiB")
        size = ends[0]
        while size <= ends[-1]:
            sizes.append(size)
            size *= 2
        if len(ends) == 2 and sizes[-1] != ends[1]:
            raise UsageError(f"--memory {word}: doubling {size_text(ends[0])} does not give {size_text(ends[1])}")
    return tuple(dict.fromkeys(sizes))


def _size(text: str) -> int:
    try:
        size = size_of(text)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    if size % _MIB:
        raise UsageError(f"--memory {text}: expected whole MiB")
    return size


def asked_shapes(vcpus: str | None, memory: str | None, *, memory_counts: bool = True) -> tuple[Size, ...]:
    """The shapes of ``--vcpus`` and ``--memory``, empty if neither is given; ``UsageError`` if only one is.

    Where the size of memory does not count, as for SNP guests, ``--vcpus`` is enough; the shapes then have no memory.
    """
    if vcpus is None and memory is None:
        return ()
    if vcpus is not None and memory is None and not memory_counts:
        return tuple(Size(count, 0) for count in vcpu_counts(vcpus))
    if vcpus is None or memory is None:
        raise UsageError("a shape needs both --vcpus and --memory" if memory_counts else "--memory needs --vcpus")
    return shapes(vcpus, memory)


def shapes(vcpus: str, memory: str) -> tuple[Size, ...]:
    """All pairs of processor count and memory size; ``UsageError`` for more than `MAX_SHAPES`."""
    counts, sizes = vcpu_counts(vcpus), memory_sizes(memory)
    if len(counts) * len(sizes) > MAX_SHAPES:
        raise UsageError(f"{len(counts) * len(sizes)} shapes: expected at most {MAX_SHAPES}")
    return tuple(Size(count, size) for size in sizes for count in counts)
