"""A batch of inputs through an ONNX model, on a GPU where there is one."""
