"""The hostile side of the world: files of nets described, limited, checked, built and loaded."""
