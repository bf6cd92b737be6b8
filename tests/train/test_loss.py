"""The loss over the teacher's likeliest tokens, against torch's own divergence."""

from __future__ import annotations

import pytest

from edgekit.train.loss import divergence, top_tokens


def full_divergence(teacher: object, student: object) -> object:
    import torch

    parts = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    )
    return parts.sum(-1)


def test_with_all_tokens_it_is_the_full_divergence_and_so_is_its_gradient() -> None:
    import torch

    torch.manual_seed(0)
    teacher, start = 3 * torch.randn(5, 4, 40), 3 * torch.randn(5, 4, 40)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    found = divergence(top_tokens(teacher, 40), ours)
    wanted = full_divergence(teacher, theirs)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_others_are_one_bucket(k: int) -> None:
    import torch

    torch.manual_seed(1)
    teacher, student = 2 * torch.randn(6, 40), 2 * torch.randn(6, 40)
    top = top_tokens(teacher, k)

    def buckets(logits: object) -> object:
        chances = logits.double().softmax(-1).gather(-1, top.ids)
        return torch.cat([chances, 1 - chances.sum(-1, keepdim=True)], dim=-1)

    p, q = buckets(teacher), buckets(student)
    wanted = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(top, student).double(), wanted, rtol=1e-4, atol=1e-5)
    assert (divergence(top, student) < full_divergence(teacher, student)).all()


def test_a_sure_teacher_gives_a_finite_loss_and_gradient() -> None:
    import torch

    teacher = torch.zeros(1, 40)
    teacher[0, 3] = 200.0
    student = (-teacher).requires_grad_()
    found = divergence(top_tokens(teacher, 4), student)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 3] < -0.9  # learning makes the teacher's token likelier
