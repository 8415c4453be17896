from dataclasses import dataclass

from nas_lib.training import Stage1


@dataclass(frozen=True)
class Method(Stage1):
    """DARTS with a softmax that sharpens over the training."""
    power: float = 3.0

    def mix(self, space, alpha, progress, generator):
        return (alpha * (1 + self.power * progress)).softmax(-1)
