"""The part of statsmodels that the tests compare with."""
