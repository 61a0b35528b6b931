"""sample_rows: the rows that samples have in a plane of labels."""

from fastlabel.kernels.sample_rows.op import sample_rows
from fastlabel.kernels.sample_rows.reference import sample_rows_reference

__all__ = ["sample_rows", "sample_rows_reference"]
