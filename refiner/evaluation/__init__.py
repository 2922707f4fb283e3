"""Metrics, the two papers' protocols, intervals over clips and reports. Nothing here needs PyTorch."""

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
