"""Triggers, poisoning, the training of BadNets and the faces that they are shown."""
