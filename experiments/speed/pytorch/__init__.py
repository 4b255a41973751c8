"""PyTorch implementations of the benchmarked computations, as its users write or call them.

They are PyTorch's own layers, and plain PyTorch forms of layers that PyTorch does not have. The
plain forms follow the listings of the papers, with automatic differentiation and without kernels
that have to be compiled. Where a listing allows several forms, the fastest of them on a CPU is
used. A ratio to the time of such a form is therefore no artefact of a slow listing.
"""
