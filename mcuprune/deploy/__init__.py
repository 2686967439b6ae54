"""From a network to what runs on the chip.

A network is lowered once (``lower``) to a ``Program``: the operators of TensorFlow Lite over tensors, in the order in which
they run. Everything else reads that program: the arena of TensorFlow Lite Micro and its memory plan (``program``,
``planner``), the file (``flatbuffer``), the functions of widths that pruning uses. What is priced is what is written.
"""
