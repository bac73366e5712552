"""Image classifiers: BiT ResNets, views of images, evaluation."""
