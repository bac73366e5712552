"""Names that kernels share with the layers above them."""

# Intermediate values that rematerialisation may keep (`nn.transformer.REMAT`).
ATTENDED = "attended"  # the output of attention
RESIDUALS = "attention_residuals"  # what the splash kernel keeps for its gradient

# Axes of the mesh, as `shard/mesh.py` has them.
ROWS = ("data", "fsdp")  # split a batch
HEADS = "tensor"  # splits the heads of attention
