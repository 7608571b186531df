"""The whole story on scikit-learn's handwritten digits: serve, drift, label, repair, approve, switch."""
