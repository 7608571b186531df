{{/* What every pod has: (dict "root" $ "part" .Values.monitor "component" "monitor" "grace" 60 "spread" false "api" false). */}}
{{- define "fieldrepair.podSettings" -}}
{{- $root := .root -}}
serviceAccountName: {{ if .api }}{{ include "fieldrepair.rolloutServiceAccountName" $root }}{{ else }}{{ include "fieldrepair.serviceAccountName" $root }}{{ end }}
automountServiceAccountToken: {{ .api | default false }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
{{- if .part.topologySpreadConstraints }}
  {{- toYaml .part.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "fieldrepair.selectorLabels" (dict "root" $root "component" $.component) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "fieldrepair.podMetadata" -}}
labels:
  {{- include "fieldrepair.labels" (dict "root" .root "component" .component) | nindent 2 }}
  {{- with .part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $checksum := "" }}
{{- if not (and .root.Values.caseBook.existingSecret .root.Values.tokens.existingSecret) }}
{{- $checksum = printf "%s%s" .root.Values.caseBook.url .root.Values.tokens.existingSecret | sha256sum }}
{{- end }}
{{- if or .part.podAnnotations $checksum .annotations }}
annotations:
  {{- with $checksum }}
  checksum/secrets: {{ . }}
  {{- end }}
  {{- with .annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .part.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Volumes of a part: (dict "root" $ "part" .Values.monitor "log" true "state" (dict ...)); state is a volume source. */}}
{{- define "fieldrepair.volumes" -}}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ .tmpSize | default "2Gi" }}
  - name: state
    {{- toYaml .state | nindent 4 }}
  {{- if and .log (not .root.Values.fieldLog.uri) }}
  - name: field-log
    persistentVolumeClaim:
      claimName: {{ include "fieldrepair.fieldLogClaim" .root }}
  {{- end }}
  {{- with .more }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .part.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "fieldrepair.mounts" -}}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: {{ .stateVolume | default "state" }}
    mountPath: /var/lib/fieldrepair/state
  {{- if and .log (not .root.Values.fieldLog.uri) }}
  - name: field-log
    mountPath: /var/lib/fieldrepair/log
  {{- end }}
  {{- with .part.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Liveness and readiness of a part that serves metrics and nothing else. */}}
{{- define "fieldrepair.metricsProbes" -}}
startupProbe:
  httpGet: {path: /metrics, port: metrics}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /metrics, port: metrics}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /metrics, port: metrics}
  periodSeconds: 20
  timeoutSeconds: 5
{{- end -}}

{{/* Startup, liveness and readiness of a part with a control port: (dict "port" "control"). */}}
{{- define "fieldrepair.controlProbes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 3
  timeoutSeconds: 3
{{- end -}}

{{/* The sidecar: (dict "root" $ "prefix" "" "annotated" false); the prefix keeps its volumes apart in pods of others. */}}
{{- define "fieldrepair.sidecarContainer" -}}
{{- $root := .root -}}
{{- $sidecar := $root.Values.sidecar -}}
- name: {{ if .foreign }}fieldrepair-{{ end }}sidecar
  image: {{ include "fieldrepair.image" (dict "root" $root "image" $root.Values.images.sidecar) }}
  imagePullPolicy: {{ $root.Values.images.sidecar.pullPolicy }}
  args: [sidecar]
  env:
    {{- include "fieldrepair.stateEnv" $root | nindent 4 }}
    {{- include "fieldrepair.modelEnv" $root | nindent 4 }}
    {{- if .foreign }}
    - name: FIELDREPAIR_UPSTREAM
      value: {{ $sidecar.upstream | quote }}
    - name: FIELDREPAIR_MODEL_VERSION
      valueFrom:
        fieldRef:
          fieldPath: metadata.annotations['fieldrepair.io/model-version']
    {{- end }}
    - name: FIELDREPAIR_TRAFFIC_HOST
      value: {{ $root.Values.bindAddress | quote }}
    - name: FIELDREPAIR_TRAFFIC_PORT
      value: {{ $sidecar.trafficPort | quote }}
    {{- include "fieldrepair.controlEnv" (dict "root" $root "port" $sidecar.controlPort) | nindent 4 }}
    {{- include "fieldrepair.noConsoleEnv" $root | nindent 4 }}
    {{- include "fieldrepair.fieldLogEnv" $root | nindent 4 }}
    {{- include "fieldrepair.settings" (dict "settings" $sidecar.settings) | nindent 4 }}
    {{- with $sidecar.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- include "fieldrepair.envFrom" (dict "root" $root "s3" true) | nindent 2 }}
  ports:
    - name: {{ if .foreign }}fr-{{ end }}traffic
      containerPort: {{ $sidecar.trafficPort }}
    - name: {{ if .foreign }}fr-{{ end }}control
      containerPort: {{ $sidecar.controlPort }}
  {{- include "fieldrepair.controlProbes" (dict "port" (ternary "fr-control" "control" (default false .foreign))) | nindent 2 }}
    failureThreshold: 2
  lifecycle:
    preStop:
      exec:
        command: [sleep, {{ $root.Values.server.drainDelaySeconds | quote }}]
  resources:
    {{- toYaml $sidecar.resources | nindent 4 }}
  securityContext:
    {{- toYaml $root.Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: {{ if .foreign }}fieldrepair-{{ else }}sidecar-{{ end }}tmp
      mountPath: /tmp
    - name: {{ if .foreign }}fieldrepair-{{ else }}sidecar-{{ end }}state
      mountPath: /var/lib/fieldrepair/state
    {{- if not $root.Values.fieldLog.uri }}
    - name: {{ if .foreign }}fieldrepair-{{ end }}field-log
      mountPath: /var/lib/fieldrepair/log
    {{- end }}
    {{- with $sidecar.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
