"""The diffusion process: noise schedule, conditional Gaussian noise model, forward process and DDIM sampler."""

from refiner.diffusion.ddim import ddim_refine, ddim_timesteps
from refiner.diffusion.forward import forward_coefficients
from refiner.diffusion.noise_model import ConditionalGaussian
from refiner.diffusion.schedule import cosine_schedule, schedule_coefficients

__all__ = [
    "ConditionalGaussian",
    "cosine_schedule",
    "ddim_refine",
    "ddim_timesteps",
    "forward_coefficients",
    "schedule_coefficients",
]
