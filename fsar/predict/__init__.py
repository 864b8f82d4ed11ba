"""Prediction: a few labelled clips and a query in, ranked classes and their evidence out."""
