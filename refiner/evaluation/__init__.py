"""Metrics, the protocols of Human3.6M and MPI-INF-3DHP, bootstrap intervals and reports. PyTorch is not needed."""

from refiner.evaluation.bootstrap import GainInterval, bootstrap_difference
from refiner.evaluation.metrics import (
    acceleration_error,
    auc,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    pck,
    root_relative,
)
from refiner.evaluation.mpi_inf_3dhp import Result3dhp, evaluate_3dhp
from refiner.evaluation.protocol import EvaluationResult, Evaluator, Sequence, evaluate_sequences

__all__ = [
    "EvaluationResult",
    "Evaluator",
    "GainInterval",
    "Result3dhp",
    "Sequence",
    "acceleration_error",
    "auc",
    "bootstrap_difference",
    "evaluate_3dhp",
    "evaluate_sequences",
    "mpjpe",
    "mpjve",
    "n_mpjpe",
    "p_mpjpe",
    "pck",
    "root_relative",
]
