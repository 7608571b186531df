{{/* Pod of the monitor, for a Deployment or a CronJob: (dict "root" $ "once" false). */}}
{{- define "fieldrepair.monitorPod" -}}
{{- $root := .root -}}
{{- $part := $root.Values.monitor -}}
metadata:
  {{- include "fieldrepair.podMetadata" (dict "root" $root "part" $part "component" "monitor") | nindent 2 }}
spec:
  {{- include "fieldrepair.podSettings" (dict "root" $root "part" $part "component" "monitor" "grace" 60) | nindent 2 }}
  {{- if .once }}
  restartPolicy: Never
  {{- end }}
  containers:
    - name: monitor
      image: {{ include "fieldrepair.image" (dict "root" $root "image" $root.Values.images.full) }}
      imagePullPolicy: {{ $root.Values.images.full.pullPolicy }}
      args: [monitor{{ if .once }}, --once{{ end }}]
      env:
        {{- include "fieldrepair.stateEnv" $root | nindent 8 }}
        {{- include "fieldrepair.modelEnv" $root | nindent 8 }}
        {{- include "fieldrepair.mlflowEnv" $root | nindent 8 }}
        {{- include "fieldrepair.fieldLogEnv" $root | nindent 8 }}
        {{- include "fieldrepair.caseBookEnv" $root | nindent 8 }}
        {{- if not .once }}
        - name: FIELDREPAIR_MONITOR_METRICS_HOST
          value: {{ $root.Values.bindAddress | quote }}
        - name: FIELDREPAIR_MONITOR_METRICS_PORT
          value: {{ $part.metricsPort | quote }}
        {{- end }}
        {{- if $part.webhookSecret }}
        - name: FIELDREPAIR_ALERT_WEBHOOK_TOKEN
          valueFrom:
            secretKeyRef:
              name: {{ $part.webhookSecret }}
              key: alert-webhook-token
        {{- end }}
        {{- include "fieldrepair.settings" (dict "settings" $part.settings) | nindent 8 }}
        {{- with $part.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- include "fieldrepair.envFrom" (dict "root" $root "s3" true "mlflow" true) | nindent 6 }}
      {{- if not .once }}
      ports:
        - name: metrics
          containerPort: {{ $part.metricsPort }}
      {{- include "fieldrepair.metricsProbes" . | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml $part.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      {{- include "fieldrepair.mounts" (dict "root" $root "part" $part "log" true) | nindent 6 }}
  {{- include "fieldrepair.volumes" (dict "root" $root "part" $part "log" true "state" (dict "emptyDir" (dict "sizeLimit" $part.stateSize))) | nindent 2 }}
{{- end -}}

{{/* Pod of the worker: (dict "root" $ "once" false). It has no port to probe: the alert FieldrepairWorkerStuck watches it. */}}
{{- define "fieldrepair.workerPod" -}}
{{- $root := .root -}}
{{- $part := $root.Values.worker -}}
metadata:
  {{- include "fieldrepair.podMetadata" (dict "root" $root "part" $part "component" "worker") | nindent 2 }}
spec:
  {{- include "fieldrepair.podSettings" (dict "root" $root "part" $part "component" "worker" "grace" $part.terminationGracePeriodSeconds) | nindent 2 }}
  {{- if .once }}
  restartPolicy: Never
  {{- end }}
  containers:
    - name: worker
      image: {{ include "fieldrepair.image" (dict "root" $root "image" $root.Values.images.full) }}
      imagePullPolicy: {{ $root.Values.images.full.pullPolicy }}
      args: [worker{{ if .once }}, --worker-once{{ end }}]
      env:
        {{- include "fieldrepair.stateEnv" $root | nindent 8 }}
        {{- include "fieldrepair.modelEnv" $root | nindent 8 }}
        {{- include "fieldrepair.mlflowEnv" $root | nindent 8 }}
        {{- include "fieldrepair.fieldLogEnv" $root | nindent 8 }}
        {{- include "fieldrepair.caseBookEnv" $root | nindent 8 }}
        {{- include "fieldrepair.settings" (dict "settings" $part.settings) | nindent 8 }}
        {{- with $part.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- include "fieldrepair.envFrom" (dict "root" $root "s3" true "mlflow" true) | nindent 6 }}
      resources:
        {{- toYaml $part.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      {{- include "fieldrepair.mounts" (dict "root" $root "part" $part "log" true) | nindent 6 }}
  {{- $claim := default (printf "%s-worker" (include "fieldrepair.fullname" $root)) $part.persistence.existingClaim }}
  {{- $state := ternary (dict "persistentVolumeClaim" (dict "claimName" $claim)) (dict "emptyDir" (dict "sizeLimit" $part.persistence.size)) $part.persistence.enabled }}
  {{- include "fieldrepair.volumes" (dict "root" $root "part" $part "log" true "state" $state) | nindent 2 }}
{{- end -}}
