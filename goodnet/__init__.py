"""goodnet repairs backdoored image classifiers with nothing but clean validation images."""
