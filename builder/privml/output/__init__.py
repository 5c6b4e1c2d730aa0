"""What an output directory holds: manifest, prediction, volumes. Verifying and running an image need no builder."""
