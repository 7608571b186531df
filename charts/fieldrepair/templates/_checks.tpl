{{/* What the schema cannot say: values that need each other, in words. */}}
{{- define "fieldrepair.check" -}}
{{- $v := .Values -}}
{{- $_ := required "model.name is required: the registered model in MLflow, say --set model.name=digits" $v.model.name -}}
{{- $_ := required "mlflow.trackingUri is required: where the MLflow tracking server answers, say http://mlflow.mlflow:5000" $v.mlflow.trackingUri -}}
{{- if not (or $v.caseBook.existingSecret $v.caseBook.url) -}}
{{- fail "caseBook.existingSecret (a Secret with the PostgreSQL URL under caseBook.existingSecretKey) or caseBook.url is required: SQLite cannot be shared by pods" -}}
{{- end -}}
{{- if and $v.caseBook.existingSecret $v.caseBook.url -}}
{{- fail "caseBook.existingSecret and caseBook.url are both set; set one" -}}
{{- end -}}
{{- if and (ne $v.mode "server") (not $v.model.version) -}}
{{- fail (printf "model.version is required with mode=%s: the version that the pods serve now, which the monitor has to know" $v.mode) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (ne $v.mode "server") -}}
{{- fail (printf "autoscaling.enabled needs mode=server, got mode=%s: the chart scales the pods that it makes" $v.mode) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) must not be above autoscaling.maxReplicas (%d)" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $v.mode "server") (eq (int $v.server.port) (int $v.sidecar.trafficPort)) -}}
{{- fail (printf "server.port and sidecar.trafficPort are both %d, and both listen in one pod" (int $v.server.port)) -}}
{{- end -}}
{{- if and (ne $v.mode "mirror") (eq (int $v.sidecar.controlPort) (int $v.sidecar.trafficPort)) -}}
{{- fail (printf "sidecar.controlPort and sidecar.trafficPort are both %d" (int $v.sidecar.controlPort)) -}}
{{- end -}}
{{- end -}}
