"""The product over many rows that training on a CPU uses: the same values and derivatives as PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seq2seq_models.pytorch import linear as room
from seq2seq_models.pytorch.linear import apply, linear

ROWS, WIDTH, OUT = 96, 520, 640


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(4, ROWS // 4, WIDTH, generator=draw)
    weight = torch.randn(OUT, WIDTH, generator=draw) / WIDTH**0.5
    return values.requires_grad_(), weight.requires_grad_(), torch.randn(OUT, generator=draw).requires_grad_()


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the products that were oneDNN's, so that no test compares PyTorch's with itself."""
    found: list[int] = []
    real = room._Linear.forward

    def forward(*inputs: Tensor) -> Tensor:
        found.append(1)
        return real(*inputs)

    monkeypatch.setattr(room._Linear, "forward", staticmethod(forward))
    return found


def is_close(one: Tensor, other: Tensor, at_most: float = 2e-5) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= at_most * other.abs().max())


@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients(inputs: tuple[Tensor, ...], calls: list[int], has_bias: bool) -> None:
    values, weight, _ = inputs
    given = inputs if has_bias else inputs[:2]
    ours, theirs = linear(*given), F.linear(*given)
    assert is_close(ours, theirs)
    found = torch.autograd.grad(ours.sin().sum(), given)
    expected = torch.autograd.grad(theirs.sin().sum(), given)
    assert all(is_close(one, other) for one, other in zip(found, expected, strict=True))
    assert len(calls) == 2  # the product, and the gradient of its values
    with torch.no_grad():
        assert is_close(linear(values, weight), F.linear(values, weight))


def test_second_derivatives(inputs: tuple[Tensor, ...]) -> None:
    def second(product: object) -> tuple[Tensor, ...]:
        out = product(*inputs).tanh().sum()  # type: ignore[operator]
        first = torch.autograd.grad(out, inputs, create_graph=True)
        return torch.autograd.grad(sum((one**2).sum() for one in first), inputs)

    assert all(is_close(one, other, 1e-4) for one, other in zip(second(linear), second(F.linear), strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own derivatives
@pytest.mark.parametrize("only", [None, 0, 1, 2])
def test_forward_mode(inputs: tuple[Tensor, ...], calls: list[int], only: int | None) -> None:
    plain = tuple(one.detach() for one in inputs)
    tangents = tuple(one.cos() if only in (None, place) else torch.zeros_like(one) for place, one in enumerate(plain))
    ours, along = torch.func.jvp(linear, plain, tangents)
    theirs, expected = torch.func.jvp(F.linear, plain, tangents)
    assert is_close(ours, theirs)
    assert is_close(along, expected)
    assert calls


def test_gradients_of_each_example(inputs: tuple[Tensor, ...], calls: list[int]) -> None:
    weight, bias = (one.detach() for one in inputs[1:])
    batches = torch.randn(3, ROWS, WIDTH)

    def each(product: object) -> Tensor:
        loss = lambda weight, rows: product(rows, weight, bias).sin().sum()  # type: ignore[operator]  # noqa: E731
        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, batches)

    assert is_close(each(linear), each(F.linear))
    assert is_close(torch.vmap(linear, (0, None))(batches, weight), F.linear(batches, weight))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # by `flags`
def test_what_is_left_to_pytorch(inputs: tuple[Tensor, ...], calls: list[int]) -> None:
    values, weight, bias = (one.detach() for one in inputs)
    few, small = values[:1, :3], weight[:8]
    for given in [
        (few, weight, bias),
        (values, small, None),
        (values.double(), weight.double(), bias.double()),
        (values.bfloat16(), weight.bfloat16(), None),
        (values.to("meta"), weight.to("meta"), None),
    ]:
        assert linear(*given).shape == F.linear(*given).shape
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(values, weight, bias).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(linear(values, weight, bias), F.linear(values, weight, bias), rtol=0, atol=0)
    assert not calls


class Applied(nn.Module):
    """A layer as the models call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, OUT)

    def forward(self, values: Tensor) -> Tensor:
        return apply(self.layer, values)


def test_in_a_traced_and_in_a_compiled_module(inputs: tuple[Tensor, ...], calls: list[int]) -> None:
    values, module = inputs[0].detach(), Applied()
    expected = module(values)
    assert calls
    calls.clear()
    with torch.no_grad():
        program = torch.export.export(module, (values,)).module()
        assert is_close(program(values), expected)
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        assert is_close(compiled(values), expected)
    assert not calls


def test_a_layer_that_was_changed_is_called(inputs: tuple[Tensor, ...], calls: list[int]) -> None:
    values, module = inputs[0], Applied()
    expected = module.layer(values)
    assert is_close(module(values), expected) and calls
    calls.clear()
    seen: list[tuple[int, ...]] = []
    handle = module.layer.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    assert is_close(module(values), expected) and seen == [(4, ROWS // 4, OUT)]
    handle.remove()
    with FlopCounterMode(display=False) as counter:
        module(values)
    assert counter.get_total_flops() == 2 * ROWS * WIDTH * OUT
    module.layer.forward = lambda values: values.new_ones(7)
    assert module(values).tolist() == [1.0] * 7
    assert not calls
