"""What the farm can measure: kernels, architectures, generated models, and the check of uploaded files.

``kernels``, ``draws``, ``models``, ``spaces`` and ``inspection`` import neither onnx nor numpy, so that the API process
can use them; the ``onnx_*`` modules and ``artifacts`` need the extra ``[onnx]``, the limited child
``inspect_child`` needs ``[inspect]``.
"""
