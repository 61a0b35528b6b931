"""The Triton kernels of encode_topk and decode_topk: on a GPU if there is one, else in Triton's interpreter.

They are also compiled for GPUs here, without one: what the interpreter takes, the compiler need not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.kernels.decode_topk import decode_topk_reference
from fastlabel.kernels.encode_topk import encode_topk_reference
from fastlabel.kernels.label_format import TAIL_MODELS, classes_dtype, widen

pytestmark = pytest.mark.triton

KINDS = ["gaussian", "extreme", "equal", "flat", "confident", "lonely", "ties", "holes"]


def encode_on_triton(logits, k, device):
    """What the kernel writes over garbage."""
    from fastlabel.kernels.encode_topk.triton import encode_topk_triton, fits

    assert fits(logits, k)
    B, C = logits.shape
    garbage = [torch.full((B, w), 0xA5, dtype=torch.int64) for w in (k, k, 2)]
    dtypes = (classes_dtype(C), torch.uint8, torch.uint16)
    outputs = [tensor.to(dtype).to(device) for tensor, dtype in zip(garbage, dtypes, strict=True)]
    encode_topk_triton(logits.to(device), *outputs)
    return [output.cpu() for output in outputs]


def decode_on_triton(label, C, temperature, tail_model, rows, device):
    from fastlabel.kernels.decode_topk.triton import decode_topk_triton

    probs = torch.full((len(label[0]) if rows is None else len(rows), C), torch.nan, device=device)
    rows = None if rows is None else rows.to(device)
    decode_topk_triton(*(x.to(device) for x in label), temperature, TAIL_MODELS.index(tail_model), rows, probs)
    return probs.cpu()


def assert_encodes_as_the_reference(logits, k, device):
    for got, expected in zip(encode_on_triton(logits, k, device), encode_topk_reference(logits, k), strict=True):
        assert torch.equal(widen(got), widen(expected))


# Interpreted, a row takes about 0.1 s.
@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    B=st.sampled_from([1, 2]),
    C=st.sampled_from([2, 10, 41, 401, 1271]),
    k=st.sampled_from([1, 2, 16, 64]),
    seed=st.integers(0, 1000),
)
def test_encode_equals_the_reference(make_logits, triton_device, kind, dtype, B, C, k, seed):
    assert_encodes_as_the_reference(make_logits(kind, B, C, seed).to(dtype), min(k, C), triton_device)


@pytest.mark.parametrize("kind", ["gaussian", "ties", "equal", "holes"])
def test_encode_takes_chunks(make_logits, triton_device, kind):
    assert_encodes_as_the_reference(make_logits(kind, 1, 5001, 0), 5, triton_device)


def test_encode_treats_negative_zero_as_zero(triton_device):
    assert_encodes_as_the_reference(torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0]]), 3, triton_device)


def test_encode_reads_strided_logits(make_logits, triton_device):
    wide = make_logits("gaussian", 4, 100, 0)
    assert_encodes_as_the_reference(wide[::2, :41], 3, triton_device)
    assert_encodes_as_the_reference(wide[:2, :41].T.contiguous().T, 3, triton_device)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy, which interprets
def test_encode_of_undefined_rows_stays_in_bounds(triton_device):
    logits = torch.full((3, 10), torch.nan)
    logits[1] = torch.inf
    logits[2] = -torch.inf
    classes = widen(encode_on_triton(logits, 4, triton_device)[0])
    assert all(len(set(row)) == 4 and max(row) < 10 for row in classes.tolist())


def test_nothing_to_encode_or_decode(triton_device):
    classes, codes, tail = encode_on_triton(torch.zeros(0, 10), 4, triton_device)
    assert (classes.shape, codes.shape, tail.shape) == ((0, 4), (0, 4), (0, 2))
    assert decode_on_triton((classes, codes, tail), 10, 1.0, "uniform", None, triton_device).shape == (0, 10)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    C=st.sampled_from([2, 10, 41, 401, 1271]),
    k=st.sampled_from([1, 2, 16, 1000]),
    temperature=st.sampled_from([1.0, 2.0, 0.37, 1e-200, 1e-3, 1e200]),
    tail_model=st.sampled_from(TAIL_MODELS),
    rows=st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=2)),
    seed=st.integers(0, 1000),
)
def test_decode_equals_the_reference(make_logits, triton_device, kind, C, k, temperature, tail_model, rows, seed):
    label = encode_topk_reference(make_logits(kind, 3, C, seed), min(k, C))
    rows = None if rows is None else torch.tensor(rows)
    got = decode_on_triton(label, C, temperature, tail_model, rows, triton_device)
    expected = decode_topk_reference(*label, C, temperature, tail_model, rows)
    # The temperature itself is a float32 there.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_decode_takes_chunks_and_wide_ids(make_logits, triton_device):
    logits = make_logits("gaussian", 1, 70001, 0)
    logits[0, 70000] = 30
    label = encode_topk_reference(logits, 9)
    got = decode_on_triton(label, 70001, 2.0, "uniform", None, triton_device)
    torch.testing.assert_close(got, decode_topk_reference(*label, 70001, 2.0), rtol=1e-5, atol=1e-9)


def test_decode_of_bad_rows_and_damaged_ids_is_nan(triton_device):
    label = encode_topk_reference(torch.randn(3, 10, generator=torch.Generator().manual_seed(0)), 4)
    label[0].view(torch.int16)[1, 2] = -1  # 65535
    rows = torch.tensor([2, 1, 3, -1, 0])
    probs = decode_on_triton(label, 10, 2.0, "uniform", rows, triton_device)
    assert probs[1:4].isnan().all()
    torch.testing.assert_close(probs, decode_topk_reference(*label, 10, 2.0, rows_B=rows), equal_nan=True)


COMPILE = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fastlabel.kernels.decode_topk.triton import _decode_chunk
from fastlabel.kernels.encode_topk.triton import _encode_row

def ptx(kernel, capability, types, constants):
    types = types | dict.fromkeys(constants, "constexpr")
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return triton.compile(ASTSource(kernel, types, constants), target=target, options=options).asm["ptx"]

labels = {"classes_ptr": "*i16", "codes_ptr": "*u8", "tail_ptr": "*i16"}
encode = {"logits_ptr": "*bf16", "stride": "i32", **labels, "C": "i32", "K": "i32"}
decode = {**labels, "rows_ptr": "*i64", "probs_ptr": "*fp32", "P": "i32", "K": "i32", "C": "i32", "temperature": "fp32"}
result = {}
for capability in (80, 90):
    result[f"encode {capability}"] = ptx(_encode_row, capability, encode, {"CHUNK": 2048, "PLACES": 128})
    constants = {"TAIL_MODEL": 0, "HAS_ROWS": True, "PLACES": 16, "CHUNK": 1024}
    result[f"decode {capability}"] = ptx(_decode_chunk, capability, decode, constants)
# Triton turns an argument of 1 into a constant.
result["encode K=1"] = ptx(_encode_row, 80, encode, {"CHUNK": 16, "PLACES": 2, "K": 1})
result["encode C=1"] = ptx(_encode_row, 80, encode, {"CHUNK": 1, "PLACES": 2, "K": 1, "C": 1, "stride": 1})
constants = {"TAIL_MODEL": 2, "HAS_ROWS": False, "PLACES": 1, "CHUNK": 16, "K": 1, "P": 1}
result["decode K=1"] = ptx(_decode_chunk, 80, decode, constants)
result["decode C=1"] = ptx(_decode_chunk, 80, decode, constants | {"CHUNK": 1, "C": 1})
print(json.dumps(result))
"""


@pytest.mark.slow
def test_kernels_compile_for_gpus():
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=environment)
    code = json.loads(done.stdout)
    assert len(code) == 8 and all(".entry" in ptx and ".local" not in ptx for ptx in code.values())
    # weight.py asks for multiplications and additions that are rounded one by one.
    assert not any("fma.rn.f32" in ptx for name, ptx in code.items() if name.startswith("encode"))
    # Between the tail's fill and the kept classes written over it.
    assert all("bar.sync" in ptx for name, ptx in code.items() if name.startswith("decode"))
