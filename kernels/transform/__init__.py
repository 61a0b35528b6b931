"""transform: logits as integer coefficients on an orthonormal basis, and back."""

from fastlabel.kernels.transform.op import transform_probabilities
from fastlabel.kernels.transform.reference import (
    LARGEST_CODE,
    decode_offset_reference,
    decoded_logits_reference,
    encode_offset_reference,
    encode_transform_reference,
    finite_centred,
    largest_coefficients,
)

__all__ = [
    "LARGEST_CODE",
    "decode_offset_reference",
    "decoded_logits_reference",
    "encode_offset_reference",
    "encode_transform_reference",
    "finite_centred",
    "largest_coefficients",
    "transform_probabilities",
]
