"""Weighted sums of 32 neighbouring values, written in LLVM's own language as Numba intrinsics.

Two taps at a time: values of int16 times weights of int16, added in pairs to int32. x86 does this in one instruction,
pmaddwd, which LLVM does not find by itself where the two values come from different places. Elsewhere LLVM is given
the plain multiplications and additions, which it translates into what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastlabel.kernels.resized_crop.reference import FRACTION_BITS, WEIGHT_BITS

LANES = 32  # values that one call makes

_ROWS_DROP, _COLUMNS_DROP = WEIGHT_BITS - FRACTION_BITS, WEIGHT_BITS + FRACTION_BITS
Load = Callable[[Any], Any]  # int16 [unit.lanes] of one tap
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


class Plain:
    """Any processor: registers of 8 values.

    ``lanes`` is how many values fit a register of int16, ``sums`` the vector types that their sums in int32 take.
    """

    lanes = 8

    def __init__(self) -> None:
        self.sums = [ir.VectorType(_I32, self.lanes)]

    def multiply(self, builder: Any, one: Any, other: Any, weights: Any) -> list[Any]:
        """The sums of one * weights[0] + other * weights[1], in an order of its own."""
        products = []
        for place, values in enumerate((one, other)):
            weight = builder.sext(builder.load(builder.gep(weights, [_I64(place)]), align=2), _I32)
            products.append(builder.mul(builder.sext(values, self.sums[0]), _splat(builder, weight, self.lanes)))
        return [builder.add(*products)]

    def narrow(self, builder: Any, sums: Sequence[Any]) -> Any:
        """Sums that fit int16 as such, in the order of the values."""
        return builder.trunc(sums[0], ir.VectorType(_I16, self.lanes))


class X86:
    """x86: two vectors interleaved, pmaddwd, and a pack that undoes the interleaving."""

    def __init__(self, lanes: int, multiply: str, pack: str) -> None:
        self.lanes, self._multiply, self._pack = lanes, multiply, pack
        self._values = ir.VectorType(_I16, lanes)
        self.sums = [ir.VectorType(_I32, lanes // 2)] * 2

    def multiply(self, builder: Any, one: Any, other: Any, weights: Any) -> list[Any]:
        pair = builder.load(builder.bitcast(weights, _I32.as_pointer()), align=2)
        factors = builder.bitcast(_splat(builder, pair, self.lanes // 2), self._values)
        call = _declare(builder, self._multiply, self.sums[0], self._values)
        return [builder.call(call, [self._interleave(builder, one, other, half), factors]) for half in (0, 4)]

    def _interleave(self, builder: Any, one: Any, other: Any, half: int) -> Any:
        """punpcklwd or punpckhwd: of every 8 values the lower or the upper 4, each beside the other vector's."""
        firsts = [eight + half + i for eight in range(0, self.lanes, 8) for i in range(4)]
        places = [first + vector for first in firsts for vector in (0, self.lanes)]
        return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_I32, self.lanes), places))

    def narrow(self, builder: Any, sums: Sequence[Any]) -> Any:
        return builder.call(_declare(builder, self._pack, self._values, self.sums[0]), list(sums))


def unit_for(triple: str, features: str) -> Plain | X86:
    """How to multiply and add on the processor that code is made for."""
    has = set(features.split(","))
    if not triple.startswith("x86_64"):
        return Plain()
    if "+avx512bw" in has:
        return X86(32, "llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx512.packssdw.512")
    if "+avx2" in has:
        return X86(16, "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx2.packssdw")
    return X86(8, "llvm.x86.sse2.pmadd.wd", "llvm.x86.sse2.packssdw.128")


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    first = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _declare(builder: Any, name: str, result: Any, argument: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [argument] * 2), name)


def _weighted_sum(builder: Any, unit: Plain | X86, load: Load, weights: Any, pairs: Any, drop: int) -> Any:
    """int16 [unit.lanes]: the sum over 2 * pairs taps, rounded and without its last ``drop`` bits. It must fit."""
    totals = []
    for vector in unit.sums:
        half = ir.Constant(vector, [1 << (drop - 1)] * vector.count)
        totals.append(cgutils.alloca_once(builder, vector))  # LLVM keeps them in registers
        builder.store(half, totals[-1])
    with cgutils.for_range(builder, pairs) as loop:
        tap = builder.mul(loop.index, _I64(2))
        one, other = load(tap), load(builder.add(tap, _I64(1)))
        products = unit.multiply(builder, one, other, builder.gep(weights, [tap]))
        for total, product in zip(totals, products, strict=True):
            builder.store(builder.add(builder.load(total), product), total)
    bits = (ir.Constant(vector, [drop] * vector.count) for vector in unit.sums)
    return unit.narrow(builder, [builder.lshr(builder.load(t), b) for t, b in zip(totals, bits, strict=True)])


def _unit(context: Any) -> Plain | X86:
    triple, _, features = context.codegen().magic_tuple()
    return unit_for(triple, features)


def _pointer(builder: Any, data: Any, place: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


@intrinsic
def sum_rows(typing, pixels, start, stride, last, weights, pairs, x, line):  # type: ignore[no-untyped-def]
    """line[x : x + 32] int16 of pixels uint8: rows at ``start``, ``start + stride``, ... but none beyond ``last``.

    A sum over 2 * pairs taps of weights int16. All vectors are contiguous, no index is checked.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        rows, first, step, end, factors, count, at, out = _data(context, builder, signature, values)
        unit = _unit(context)
        small, wide = ir.VectorType(_I8, unit.lanes), ir.VectorType(_I16, unit.lanes)
        for place in range(0, LANES, unit.lanes):
            here = builder.add(at, _I64(place))

            def load(tap: Any, here: Any = here) -> Any:
                row = builder.add(first, builder.mul(tap, step))
                row = builder.select(builder.icmp_signed("<", row, end), row, end)
                pointer = _pointer(builder, rows, builder.add(row, here), small)
                return builder.zext(builder.load(pointer, align=1), wide)

            total = _weighted_sum(builder, unit, load, factors, count, _ROWS_DROP)
            builder.store(total, _pointer(builder, out, here, wide), align=2)
        return context.get_dummy_value()

    number = types.int64
    return types.void(pixels, number, number, number, weights, number, number, line), generate


@intrinsic
def sum_entries(typing, tile, at, weights, row, pairs, out, to):  # type: ignore[no-untyped-def]
    """out[to : to + 32] uint8 of tile int16: entries of 32 values from tile[at] on, by weights from weights[row] on.

    A sum over 2 * pairs taps of weights int16. All vectors are contiguous, no index is checked.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        entries, first, factors, begin, count, small_out, target = _data(context, builder, signature, values)
        unit = _unit(context)
        small, wide = ir.VectorType(_I8, unit.lanes), ir.VectorType(_I16, unit.lanes)
        for place in range(0, LANES, unit.lanes):

            def load(tap: Any, place: int = place) -> Any:
                entry = builder.add(first, builder.mul(tap, _I64(LANES)))
                return builder.load(_pointer(builder, entries, builder.add(entry, _I64(place)), wide), align=2)

            here = builder.gep(factors, [begin])
            total = builder.trunc(_weighted_sum(builder, unit, load, here, count, _COLUMNS_DROP), small)
            pointer = _pointer(builder, small_out, builder.add(target, _I64(place)), small)
            builder.store(total, pointer, align=1)
        return context.get_dummy_value()

    number = types.int64
    return types.void(tile, number, weights, number, number, out, number), generate


def _data(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> list[Any]:
    """Of each argument that is an array, the pointer to its data; the others as they are."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, values, strict=True)
    ]
