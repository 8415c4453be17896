from nas_lib.spaces import NB201


def score(trained, archs, data, seed):
    """Prefer cells with few 3x3 convolutions among those the law thinks likely."""
    heavy = (archs == NB201.ops.index("nor_conv_3x3")).sum(1)
    return trained.log_prob[NB201.index(archs)] - 0.01 * heavy
