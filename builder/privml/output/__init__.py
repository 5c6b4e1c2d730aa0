"""The files of an output directory: manifest, prediction, artefacts. Verifying and running an image use only this."""
