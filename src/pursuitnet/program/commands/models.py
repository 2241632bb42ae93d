"""pursuitnet models."""


def models() -> None:
    """List the networks of the paper, and those that return images; other depths of a family exist too."""
    from pursuitnet.networks import list_models

    print("\n".join(list_models()))
    print("\nto denoise, segment or regress images:", *list_models(task="image"), sep="\n")
