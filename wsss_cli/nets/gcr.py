"""Graph Category Representation: class tokens that gather what the patches most like them say (MoRe, 2412.11076)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORES = ("inner", "sums")
STEP = 0.1  # how far a class token moves towards its neighbourhood


class GraphCategories(nn.Module):
    """One round of messages from the k nearest patches and class tokens to each class token.

    With T the class tokens, P the patches (no gradient), Z = [T; P], e_h = W_h T, e_t = W_t Z, for each class

        (v_j, n_j) = the k largest of D^-½ e_h e_tᵀ,  N_j = e_t[n_j],  p = softmax v,  k = max(1, ⌊C/2⌋)
        g_j = tanh(e_h + p_j N_j + (1 − p_j) e_h)
        a   = Σ_j softmax_j(s_j) N_j
        Q   = LayerNorm( φ(W_1 (T + 0.1 (e_h + a))) + φ(W_2 (T + 0.1 (e_h ⊙ a))) ),  φ leaky ReLU

    `score` is "inner", s_j = ⟨N_j, g_j⟩, or "sums", s_j = (Σ_d N_jd)(Σ_d g_jd), as published: with D = 768 that is so
    large that the softmax keeps a single neighbour.
    """

    def __init__(self, width: int, score: str = "inner") -> None:
        super().__init__()
        self.score = score
        self.head_proj = nn.Linear(width, width)
        self.tail_proj = nn.Linear(width, width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """tokens (B, C, D), patches (B, P, D) -> Q (B, C, D) in float32."""
        with torch.autocast(tokens.device.type, enabled=False):  # a product of sums needs the digits
            return self._messages(tokens.float(), patches.detach().float())

    def _messages(self, tokens: Tensor, patches: Tensor) -> Tensor:
        heads = self.head_proj(tokens)
        tails = self.tail_proj(torch.cat([tokens, patches], dim=1))
        edges = (heads * heads.shape[-1] ** -0.5) @ tails.transpose(1, 2)
        count = min(max(1, tokens.shape[1] // 2), edges.shape[-1])
        values, indices = edges.topk(count, dim=-1)
        near = tails[torch.arange(len(tails), device=tails.device)[:, None, None], indices]  # (B, C, k, D)
        p = values.softmax(dim=-1)[..., None]
        own = heads[:, :, None]
        gate = torch.tanh(own + p * near + (1 - p) * own)
        score = near.sum(dim=-1) * gate.sum(dim=-1) if self.score == "sums" else (near * gate).sum(dim=-1)
        gathered = (score.softmax(dim=-1)[..., None] * near).sum(dim=2)
        added = F.leaky_relu(self.linear1(tokens + STEP * (heads + gathered)))
        multiplied = F.leaky_relu(self.linear2(tokens + STEP * (heads * gathered)))
        result: Tensor = self.norm(added + multiplied)
        return result
