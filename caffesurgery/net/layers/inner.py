"""InnerProduct and Embed: the layers with a matrix."""

from __future__ import annotations

from .base import LayerType, axis_of, count, refuse, register


@register
class InnerProduct(LayerType):
    """Flattens its bottom from ``axis`` on; matrix (N, K), or (K, N) with ``transpose``."""

    types = ("InnerProduct",)
    any_size = True

    def tops(self, layer, bottoms):
        params = layer.params("inner_product_param")
        axis = axis_of(layer, bottoms[0], params["axis"])
        return [bottoms[0][:axis] + (params["num_output"],)]

    def blobs(self, layer, bottoms):
        params = layer.params("inner_product_param")
        outputs = params["num_output"]
        if outputs < 1:
            raise refuse(layer, "num_output must be above 0")
        inputs = count(bottoms[0], axis_of(layer, bottoms[0], params["axis"]))
        matrix = (inputs, outputs) if params["transpose"] else (outputs, inputs)
        return [matrix, (outputs,)] if params["bias_term"] else [matrix]

    def macs(self, layer, bottoms, tops):
        axis = axis_of(layer, bottoms[0], layer.params("inner_product_param")["axis"])
        return count(tops[0]) * count(bottoms[0], axis)

    def onnx(self, layer, g):
        params = layer.params("inner_product_param")
        axis = axis_of(layer, g.bottom_shapes[0], params["axis"])
        flat = g.input()
        if (axis, len(g.bottom_shapes[0])) != (1, 2):
            flat = g.node("Flatten", [flat], {"axis": axis})
        terms = [g.const(g.weight(0), "weight")]
        if g.has_weight(1):
            terms.append(g.const(g.weight(1), "bias"))
        top = g.node("Gemm", [flat, *terms], {"transB": 0 if params["transpose"] else 1})
        g.output(0, top if axis == 1 else g.reshape(top, g.top_dims[0]))


@register
class Embed(LayerType):
    """One row of a table (input_dim, num_output) for each index: a look-up, so no MACs."""

    types = ("Embed",)

    def tops(self, layer, bottoms):
        return [bottoms[0] + (layer.params("embed_param")["num_output"],)]

    def blobs(self, layer, bottoms):
        params = layer.params("embed_param")
        rows, columns = params["input_dim"], params["num_output"]
        if rows < 1 or columns < 1:
            raise refuse(layer, f"input_dim {rows} and num_output {columns} must both be above 0")
        return [(rows, columns), (columns,)] if params["bias_term"] else [(rows, columns)]

    def onnx(self, layer, g):
        top = g.node("Gather", [g.const(g.weight(0), "weight"), g.as_int(g.input())])
        if g.has_weight(1):
            top = g.node("Add", [top, g.const(g.weight(1), "bias")])
        g.output(0, top)
