"""Softmax, Accuracy and the losses; a loss is a scalar, whose shape has no axes."""

from __future__ import annotations

from .base import LayerType, Shape, axis_of, count, legacy, refuse, register, show


@register
class Softmax(LayerType):
    """exp(x) over its sum along an axis."""

    types = ("Softmax",)
    any_size = True

    def tops(self, layer, bottoms):
        axis_of(layer, bottoms[0], layer.params("softmax_param")["axis"])
        return [bottoms[0]]

    def onnx(self, layer, g):
        shape = g.bottom_shapes[0]
        axis = axis_of(layer, shape, layer.params("softmax_param")["axis"])
        last = len(shape) - 1
        if g.opset >= 13 or count(shape, axis + 1) == 1:
            g.output(0, g.node("Softmax", [g.input()], {"axis": axis}))
            return
        # before opset 13 Softmax takes all axes from ``axis`` on as one
        turn = [*(i for i in range(last + 1) if i != axis), axis]
        back = sorted(range(last + 1), key=turn.__getitem__)
        turned = g.node("Transpose", [g.input()], {"perm": turn})
        top = g.node("Softmax", [turned], {"axis": last})
        g.output(0, g.node("Transpose", [top], {"perm": back}))


class _Loss(LayerType):
    """A loss over predictions and labels; its top may be left out of the file."""

    takes = (2, 2)
    auto_tops = True

    def tops(self, layer, bottoms):
        first, second = bottoms[:2]
        if first[:1] != second[:1] or not first:
            raise refuse(
                layer,
                f"predictions {show(first)} and labels {show(second)} must have the same "
                "first dimension",
            )
        self._check(layer, bottoms)
        return [(), first]

    def _check(self, layer, bottoms: list[Shape]) -> None:
        """What one loss asks of its bottoms beyond the common first dimension."""


def check_labels(layer, scores: Shape, labels: Shape, axis: int) -> int:
    """The canonical class axis; refused unless there is one label for each place beside it."""
    axis = axis_of(layer, scores, axis)
    expected = count(scores, 0, axis) * count(scores, axis + 1)
    if count(labels) != expected:
        raise refuse(
            layer,
            f"predictions {show(scores)} with classes at axis {axis} need {expected} labels, "
            f"met {show(labels)}: {count(labels)}",
        )
    return axis


@register
class SoftmaxWithLoss(_Loss):
    """Cross entropy of a softmax; a second top gives the softmax itself."""

    types = ("SoftmaxWithLoss",)
    gives = (1, 2)

    def _check(self, layer, bottoms):
        check_labels(layer, *bottoms, layer.params("softmax_param")["axis"])


@register
class InfogainLoss(_Loss):
    """SoftmaxWithLoss with a matrix that weighs the classes, from a file or from bottom 2."""

    types = ("InfogainLoss",)
    takes = (2, 3)
    gives = (1, 2)

    def _check(self, layer, bottoms):
        params = layer.params("infogain_loss_param")
        axis = check_labels(layer, *bottoms[:2], params["axis"])
        if len(bottoms) < 3 and not params.has("source"):
            raise refuse(layer, "needs its matrix from infogain_loss_param.source or bottom 2")
        if len(bottoms) == 3 and count(bottoms[2]) != bottoms[0][axis] ** 2:
            raise refuse(
                layer, f"bottom 2 is {show(bottoms[2])}, expected {bottoms[0][axis]} squared"
            )


@register
class MultinomialLogisticLoss(_Loss):
    """Cross entropy of probabilities."""

    types = ("MultinomialLogisticLoss",)

    def _check(self, layer, bottoms):
        if legacy(layer, bottoms[1])[1:] != (1, 1, 1):
            raise refuse(layer, f"expected one label for each item, met {show(bottoms[1])}")


@register
class EuclideanLoss(_Loss):
    """Half the mean squared distance."""

    types = ("EuclideanLoss",)

    def _check(self, layer, bottoms):
        if count(bottoms[0], 1) != count(bottoms[1], 1):
            raise refuse(
                layer, f"bottoms {show(bottoms[0])} and {show(bottoms[1])} differ in items' size"
            )


@register
class HingeLoss(_Loss):
    """One-versus-all hinge loss."""

    types = ("HingeLoss",)


@register
class SigmoidCrossEntropyLoss(_Loss):
    """Cross entropy of sigmoids, one for each element."""

    types = ("SigmoidCrossEntropyLoss",)

    def _check(self, layer, bottoms):
        if count(bottoms[0]) != count(bottoms[1]):
            raise refuse(layer, f"bottoms {show(bottoms[0])} and {show(bottoms[1])} differ in size")


@register
class ContrastiveLoss(_Loss):
    """Distance of pairs of vectors; bottom 2 says which pairs belong together."""

    types = ("ContrastiveLoss",)
    takes = (3, 3)

    def _check(self, layer, bottoms):
        first, second, similar = (legacy(layer, bottom) for bottom in bottoms)
        if first[1:] != (second[1], 1, 1) or second[2:] != (1, 1) or similar[1:] != (1, 1, 1):
            shapes = ", ".join(show(bottom) for bottom in bottoms)
            raise refuse(layer, f"expected bottoms NxC, NxC and N, met {shapes}")


@register
class Accuracy(LayerType):
    """Share of items whose label is among the top_k; a second top gives it for each class."""

    types = ("Accuracy",)
    takes = (2, 2)
    gives = (1, 2)

    def tops(self, layer, bottoms):
        scores, labels = bottoms
        params = layer.params("accuracy_param")
        axis = check_labels(layer, scores, labels, params["axis"])
        if count(labels) and params["top_k"] > count(scores) // count(labels):
            raise refuse(layer, f"top_k {params['top_k']} is more than {scores[axis]} classes")
        return [(), (scores[axis],)]
