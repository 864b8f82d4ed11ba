"""How the files of a store appear: claims, staged steps, records, the seal."""
