"""Learning from rewards: answers are written, judged, and learnt from with a policy objective."""
