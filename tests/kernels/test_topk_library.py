"""encode_topk and decode_topk as operators of torch.library: opcheck, torch.compile, fake tensors, CUDA."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastlabel.kernels.decode_topk import decode_topk, decode_topk_reference
from fastlabel.kernels.encode_topk import encode_topk, encode_topk_reference
from fastlabel.kernels.label_format import TAIL_MODELS, widen

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "C", "k"), [(3, 41, 5), (0, 10, 10), (1, 70001, 2)])
def test_encode_passes_opcheck(make_logits, dtype, B, C, k):
    torch.library.opcheck(torch.ops.fastlabel.encode_topk.default, (make_logits("gaussian", B, C, 0).to(dtype), k))


@pytest.mark.parametrize("tail_model", TAIL_MODELS)
@pytest.mark.parametrize("rows", [None, [2, 0, 0, 1]])
@pytest.mark.parametrize("C", [41, 70001])
def test_decode_passes_opcheck(make_logits, tail_model, rows, C):
    label = encode_topk(make_logits("gaussian", 3, C, 0), 5)
    rows = None if rows is None else torch.tensor(rows)
    torch.library.opcheck(torch.ops.fastlabel.decode_topk.default, (*label, C, 2.0, tail_model, rows))


def round_trip(logits, k, temperature, tail_model, rows):
    return decode_topk(*encode_topk(logits * 2, k), logits.shape[1], temperature, tail_model, rows)


@pytest.mark.slow
def test_compiles_without_a_break(make_logits):
    compiled = torch.compile(round_trip, fullgraph=True)
    rows = torch.tensor([5, 5, 0])
    for C, k, temperature, tail_model in (
        (41, 5, 1.0, "uniform"),
        (401, 16, 2.0, "zero"),
        (41, 41, 0.5, "renormalise"),
    ):
        arguments = (make_logits("gaussian", 7, C, 0), k, temperature, tail_model, rows)
        torch.testing.assert_close(compiled(*arguments), round_trip(*arguments))


def test_compiles_for_shapes_and_temperatures_that_change(make_logits):
    compiled = torch.compile(round_trip, fullgraph=True, dynamic=True, backend="aot_eager")
    for B, C, temperature in ((3, 41, 1.0), (5, 41, 1.5), (4, 70, 2.25), (6, 70001, 3.0), (1, 10, 0.1)):
        arguments = (make_logits("gaussian", B, C, 0), 5, temperature, "uniform", torch.arange(B))
        torch.testing.assert_close(compiled(*arguments), round_trip(*arguments))


def test_compiled_code_raises_too(make_logits):
    label = encode_topk(make_logits("gaussian", 3, 10, 0), 4)
    compiled = torch.compile(lambda *label, rows: decode_topk(*label, 10, rows_B=rows), fullgraph=True)
    with pytest.raises(ValueError, match="1 rows are outside of the 3 labels"):
        compiled(*label, rows=torch.tensor([0, 3]))
    label[0].view(torch.int16)[1, 2] = 10
    with pytest.raises(ValueError, match="1 class ids are 10 or more"):
        compiled(*label, rows=torch.tensor([0, 1]))


@pytest.mark.parametrize("C", [10, 70001])
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(make_logits, C):
    real = encode_topk(make_logits("gaussian", 3, C, 0), 4)
    with FakeTensorMode():
        fake = encode_topk(torch.empty(3, C, device="cuda"), 4)
        probs = decode_topk(*fake, C, rows_B=torch.empty(5, dtype=torch.int64, device="cuda"))
    assert [(x.shape, x.dtype) for x in fake] == [(x.shape, x.dtype) for x in real]
    assert (probs.shape, probs.dtype, probs.device.type) == ((5, C), torch.float32, "cuda")


def test_labels_need_no_gradient(make_logits):
    logits = make_logits("gaussian", 3, 10, 0).requires_grad_()
    label = encode_topk(logits, 4)
    assert not any(x.requires_grad for x in (*label, decode_topk(*label, 10)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "C", "k"), [(41, 1271, 16), (0, 10, 3), (41, 401, 401), (5, 32768, 64), (3, 70001, 256)])
def test_a_gpu_gives_the_same_bytes(make_logits, dtype, B, C, k):
    for kind in ("gaussian", "extreme", "equal", "ties", "holes", "confident"):
        logits = make_logits(kind, B, C, 0).to(dtype)
        for got, expected in zip(encode_topk(logits.cuda(), k), encode_topk_reference(logits, k), strict=True):
            assert torch.equal(widen(got.cpu()), widen(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("tail_model", TAIL_MODELS)
@pytest.mark.parametrize(("C", "k"), [(41, 5), (1271, 16), (21841, 64), (70001, 9), (2000, 2000)])
def test_a_gpu_decodes_the_same(make_logits, tail_model, C, k):
    label = encode_topk(make_logits("gaussian", 41, C, 0), k)
    rows = torch.tensor([40, 0, 0, 7])
    for temperature in (0.5, 1.0, 3.0):
        for chosen in (None, rows):
            on_gpu = decode_topk(
                *(x.cuda() for x in label), C, temperature, tail_model, None if chosen is None else chosen.cuda()
            )
            expected = decode_topk_reference(*label, C, temperature, tail_model, chosen)
            torch.testing.assert_close(on_gpu.cpu(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
def test_a_gpu_compiles_without_a_break_and_passes_opcheck(make_logits):
    logits = make_logits("gaussian", 41, 401, 0).cuda()
    arguments = (logits, 16, 2.0, "uniform", torch.tensor([40, 3], device="cuda"))
    torch.testing.assert_close(torch.compile(round_trip, fullgraph=True)(*arguments), round_trip(*arguments))
    torch.library.opcheck(torch.ops.fastlabel.encode_topk.default, (logits, 16))
    label = encode_topk(logits, 16)
    torch.library.opcheck(torch.ops.fastlabel.decode_topk.default, (*label, 401, 2.0, "zero", arguments[-1]))


@pytest.mark.gpu
def test_a_gpu_marks_bad_rows_and_damaged_labels():
    label = [x.cuda() for x in encode_topk(torch.randn(3, 10, generator=torch.Generator().manual_seed(0)), 4)]
    label[0].view(torch.int16)[1, 2] = 10
    probs = decode_topk(*label, 10, rows_B=torch.tensor([0, 1, 2, 3, -1], device="cuda"))
    assert probs.isnan().all(1).tolist() == [False, True, False, True, True]
    assert not probs[[0, 2]].isnan().any()
