"""Model versions on Kubernetes: one in each pod (``serve``), and all pods moved to another one (``rollout``)."""
