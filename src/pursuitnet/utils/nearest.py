"""Unknown names: the error, and the nearest name that exists. Imports nothing heavy."""

import difflib
from collections.abc import Iterable

ELSEWHERE = {
    "lr": "learning_rate, learningrate, rate, eta, max_lr, base_lr, lr_max, init_lr, initial_lr, step_size",
    "batch_size": "batch, bs, batchsize, minibatch, mini_batch_size, train_batch_size, images_per_batch",
    "epochs": "n_epochs, num_epochs, max_epochs, epoch, max_iter, passes",
    "weight_decay": "wd, decay, l2, weightdecay",
    "label_smoothing": "smoothing, smooth, ls",
    "schedule": "scheduler, lr_schedule, lr_scheduler, sched",
    "milestones": "drops, steps_at, lr_steps, decay_epochs",
    "warmup": "warmup_epochs, warm_up, lr_warmup",
    "seed": "random_state, random_seed, manual_seed, rng",
    "data": "dataset, data_set, ds, dataset_name",
    "data_dir": "data_path, root, datadir, data_root, dataset_dir, path, dir, folder, input",
    "model": "arch, architecture, network, net, backbone, model_name",
    "unfolding": "unfold, unfoldings, unfolds, iterations, n_iter, num_iter, layers_unfolded, t",
    "width": "channels, num_channels, atoms, n_atoms, num_atoms, filters, num_filters, n_components",
    "norm": "normalization, normalisation, bn, norm_layer",
    "image_size": "img_size, input_size, size, resolution, resize, crop_size",
    "val_images": "val, valid_images, validation_images, val_size, val_split, valid_size, validation",
    "train_images": "n_train, num_train, train_size, max_train, subset",
    "test_images": "tested, n_test, num_test, test_size, max_test, limit",
    "filter": "only, select, match, k",
    "plot": "pictures, figures, plots",
    "shift": "translate, translation, crop, random_crop, padding, pad",
    "flip": "hflip, horizontal_flip, mirror, random_flip",
    "padding_mode": "fill, pad_mode, fill_mode",
    "normalize": "standardise, standardize, normalise, normalized",
    "precision": "dtype, amp, mixed_precision, autocast, half, fp16, bf16",
    "compile": "torch_compile, compiled, jit",
    "grad_checkpointing": "gradient_checkpointing, activation_checkpointing, checkpointing",
    "sync_norm": "sync_bn, syncbn, sync_batchnorm",
    "device": "gpu, accelerator, cuda",
    "out": "output, output_dir, out_dir, outdir, o, save_dir, logdir, log_dir, run_dir, work_dir",
    "recipe": "config, cfg, preset, yaml, c",
    "resume": "continue, restart, resume_from",
    "iterations": "epochs, n_epochs, max_iter, n_iter, max_iterations, rounds",
    "atoms": "n_components, n_atoms, num_atoms, filters, num_filters, width, dict_size, k",
    "size": "kernel_size, kernel, atom_size, filter_size, patch_size",
    "beta": "alpha, lmbda, lam, penalty, sparsity",
    "jobs": "n_jobs, workers, num_workers, j, processes",
    "budget": "timeout, time_limit, max_time",
    "dry_run": "dryrun, n, simulate, plan",
    "version": "v",
    "help": "h, usage",
    "train": "fit, learn, run",
    "evaluate": "eval, test, predict, score, validate, benchmark",
    "inspect": "explain, analyze, analyse, show, interpret",
    "runs": "list, ls, experiments",
    "models": "list_models, networks",
    "cuda": "gpu, nvidia, cuda0",
    "mps": "metal, apple",
    "xpu": "intel",
    "float16": "fp16, half",
    "bfloat16": "bf16",
    "float32": "fp32, float, single, full",
    "onecycle": "one_cycle, 1cycle, superconvergence",
    "steps": "step, multistep, multi_step",
    "cosine": "cos, cosine_annealing",
    "zeros": "zero, constant, black",
    "batch": "batchnorm, batch_norm, bn",
}
"""Our names, and the names of the same thing in other programs."""

_SYNONYMS = [(other, ours) for ours, others in ELSEWHERE.items() for other in others.split(", ")]
_SYNONYMS += [(f"no_{other}", f"no_{ours}") for other, ours in _SYNONYMS]  # --no-X must not become --X


def nearest(name: object, known: Iterable[object]) -> str | None:
    """Return the known name that is meant: the same, a synonym, or the closest spelling; None if none is close.

    Args:
        name: the given name; case, leading dashes, and ``-`` for ``_`` are ignored.
        known: the names that exist.
    """
    names = {_normalized(each): str(each) for each in known}
    synonyms = {other: names[ours] for other, ours in _SYNONYMS if ours in names}
    names = {**synonyms, **names}
    given = _normalized(name)
    close = [given] if given in names else difflib.get_close_matches(given, names, 1)
    return names[close[0]] if close else None


def did_you_mean(name: object, known: Iterable[object], otherwise: str = "") -> str:
    """Return the end of a message: "; did you mean X?" with the nearest known name, or ``otherwise`` without one."""
    suggestion = nearest(name, known)
    return otherwise if suggestion is None else f"; did you mean {suggestion}?"


def require_known(kind: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the known values and the nearest one, unless `value` is one of them."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}: known are {', '.join(known)}{did_you_mean(value, known)}")


def _normalized(name: object) -> str:
    return str(name).lower().strip().lstrip("-").replace("-", "_")[:100]
