"""What HydraServe's paper and artifact publish: cold starts (Fig. 7), the end-to-end test (Figs. 9, 11), its setting.

Figures read from the artifact's plotting code; seconds, percent, GB = 1e9 bytes of float16 weights.
"""

from dataclasses import dataclass

SYSTEMS = ("serverless-vllm", "serverlessllm", "serverlessllm cached", "hydraserve s=1", "hydraserve")
SIZES_GB = {
    "OPT-2.7B": 5.3,
    "OPT-6.7B": 13.3,
    "OPT-13B": 25.7,
    "Llama2-7B": 13.5,
    "Llama2-13B": 26.0,
    "Llama3-8B": 16.1,
    "Falcon-7B": 14.4,
}
TTFT_S = {
    "V100": {
        "OPT-2.7B": (16.8, 13.1, 11.1, 7.9, 7.9),
        "OPT-6.7B": (23.6, 17.1, 11.8, 9.7, 8.2),
        "OPT-13B": (40.3, 26.1, 14.8, 17.0, 8.5),
        "Llama2-7B": (23.2, 19.1, 12.1, 9.9, 7.7),
        "Llama2-13B": (38.6, 26.2, 15.1, 17.4, 8.7),
        "Llama3-8B": (29.2, 21.2, 13.1, 11.7, 8.6),
        "Falcon-7B": (25.4, 19.1, 12.1, 10.2, 8.3),
    },
    "A10": {
        "OPT-2.7B": (10.1, 10.0, 7.1, 4.7, 4.7),
        "OPT-6.7B": (17.0, 14.1, 7.7, 8.3, 5.9),
        "Llama2-7B": (16.6, 14.1, 8.1, 8.4, 5.6),
        "Llama3-8B": (19.3, 17.1, 9.1, 10.3, 6.3),
        "Falcon-7B": (16.2, 14.1, 8.1, 9.0, 6.2),
    },
}
"""Fig. 7: first token of a cold start, by kind of GPU and model, in the order of SYSTEMS. Links of 16 Gbit/s."""
ONE_STAGE_BELOW_GB = 10
"""The artifact does not split smaller models: its own pipeline of four is one worker there."""
FIG7_LINK_GBPS = 16

RATES = (0.6, 0.7, 0.8)
CVS = (2, 4, 8)
ATTAINMENT = {
    "serverless-vllm": {2: (46.7, 45.7, 43.9), 4: (49.9, 48.6, 44.7), 8: (53.5, 53.3, 48.5)},
    "serverlessllm": {2: (57.5, 49.8, 45.3), 4: (61.5, 57.7, 47.7), 8: (60.3, 57.7, 54.0)},
    "hydraserve": {2: (81.1, 77.2, 73.8), 4: (84.2, 78.2, 71.8), 8: (82.5, 76.3, 75.2)},
    "hydraserve cache": {2: (83.7, 79.1, 78.3), 4: (88.2, 83.8, 79.3), 8: (88.2, 85.0, 78.5)},
}
"""Fig. 9: requests whose first token came within the service level, percent, by CV, at each of RATES."""


@dataclass(frozen=True, slots=True)
class App:
    """An application and its share of the requests; its models and service levels are in models.toml."""

    name: str
    share: float


APPS = (App("chatbot", 0.566), App("code", 0.334), App("summarization", 0.100))
"""Shares are not published; they are what makes Fig. 9 the mean of Fig. 11 for all four systems (CV 8, 0.6/s)."""
REPLICAS = 64
"""Models of each application and size: 384 in all."""
MAX_TOKENS = 1_024
"""Prompts and answers are no longer than this."""
