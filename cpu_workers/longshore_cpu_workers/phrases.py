"""What libraries say when a machine and not a job is to blame: the one table of their words.

The word "CUDA" alone says nothing: an operator that is not registered, or a path, may hold it too.
"""

from __future__ import annotations

import enum
import re


class Trouble(enum.Enum):
    """What such a text is about.

    HOST_MEMORY, DEVICE_MEMORY: an allocator had no more to give.
    DEVICE: the device itself is faulty; the next process on it may meet the same.
    CONTEXT: what this process has on its device is spoilt until the process ends; most often by
    the code that ran.
    """

    HOST_MEMORY = 1
    DEVICE_MEMORY = 2
    DEVICE = 3
    CONTEXT = 4


# In this order: an allocation that failed is called an error of CUDA too.
_TABLE = (
    (
        # torch, CUDA itself, onnxruntime's arena on a device, cuBLAS and cuDNN, XLA, HIP.
        Trouble.DEVICE_MEMORY,
        (
            r"(?:CUDA|HIP) out of memory|(?:CUDA|HIP) error: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
            r"|cudaErrorMemoryAllocation|(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
            r"|(?:CUDA|HIP) failure 2\b|RESOURCE_EXHAUSTED: Out of memory"
            r"|Failed to allocate memory for requested buffer of size"
            r"|Available memory of \d+ is smaller than requested bytes"
        ),
    ),
    (
        # ffmpeg and the C library, C++, numpy.
        Trouble.HOST_MEMORY,
        (r"Cannot allocate memory|\bbad[_ ]?alloc(?:ation)?\b|Unable to allocate [\d.]+ [KMGT]iB"),
    ),
    (
        Trouble.DEVICE,
        (
            r"uncorrectable ECC error|cudaErrorECCUncorrectable|CUDA_ERROR_ECC_UNCORRECTABLE"
            r"|GPU is lost|GPU has fallen off the bus|uncorrectable NVLink error"
            r"|cudaErrorNvlinkUncorrectable|CUDA_ERROR_NVLINK_UNCORRECTABLE"
            r"|(?:CUDA|HIP) failure (?:214|220)\b|no CUDA-capable device is detected"
            r"|cudaErrorDevicesUnavailable|CUDA-capable device\(s\) is/are busy or unavailable"
        ),
    ),
    (
        Trouble.CONTEXT,
        (
            r"(?:CUDA|HIP|cuDNN|cuBLAS|NCCL) error\b|(?:CUDA|HIP|CUDNN|CUBLAS|CUFFT) failure \d"
            r"|\b(?:CUDNN|CUBLAS|CUFFT|CUSPARSE|CUSOLVER)_STATUS_[A-Z_]+|\bCUDA_ERROR_[A-Z_]+"
            r"|device-side assert|an illegal memory access was encountered"
            r"|unspecified launch failure"
        ),
    ),
)
_PATTERNS = tuple((trouble, re.compile(words, re.IGNORECASE)) for trouble, words in _TABLE)


def trouble_in(text: str) -> Trouble | None:
    """What a text of a library tells of; None for everything else."""
    return next((trouble for trouble, words in _PATTERNS if words.search(text)), None)
