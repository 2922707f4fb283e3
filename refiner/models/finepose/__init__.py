"""FinePOSE: the diffusion lifter with text prompts for the action."""

from refiner.models.finepose.actions import ActionClassifier
from refiner.models.finepose.model import FinePOSE, FinePoseDenoiser, PromptedLifter
from refiner.models.finepose.prompts import (
    FULL_PROMPTS,
    PROMPT_SETS,
    CachedText,
    Prompt,
    PromptedText,
    TextConditioner,
)
from refiner.models.finepose.text_tower import TextTower
from refiner.models.finepose.vocabulary import ClipVocabulary, TokenTable, Vocabulary, WordVocabulary

__all__ = [
    "FULL_PROMPTS",
    "PROMPT_SETS",
    "ActionClassifier",
    "CachedText",
    "ClipVocabulary",
    "FinePOSE",
    "FinePoseDenoiser",
    "Prompt",
    "PromptedLifter",
    "PromptedText",
    "TextConditioner",
    "TextTower",
    "TokenTable",
    "Vocabulary",
    "WordVocabulary",
]
