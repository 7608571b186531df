import torch

def mmd2_from_kernel_matrix(
    kernel_mat: torch.Tensor, m: int, permute: bool = ..., zero_diag: bool = ...
) -> torch.Tensor: ...
def permed_lsdds(
    k_all_c: torch.Tensor,
    x_perms: list[torch.Tensor],
    y_perms: list[torch.Tensor],
    H: torch.Tensor,
    H_lam_inv: torch.Tensor | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...
